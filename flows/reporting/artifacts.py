"""What the Prefect UI shows of a refresh beside its logs: progress, summary, source issues, contact sheet, report.

Every function does nothing where no Prefect run is going on (--no-server), and none can fail a run: a server that does
not take an artifact costs a line in the log.
"""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, ParamSpec
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Crashed

from flows.pipeline.outcome import RefreshOutcome
from flows.refresh_options import RefreshOptions
from flows.reporting.logs import run_logger
from storage.records import State
from storage.snapshot import Snapshot
from storage.stores import report_url

_MIN_UPDATE_S = 2.0
_MAX_ROWS = 500
# How much of a refresh each step is, roughly; they add up to 1.
_WEIGHTS = {"inventory": 0.02, "plan": 0.02, "cut": 0.46, "extract": 0.46, "publish": 0.02, "report": 0.02}
P = ParamSpec("P")


# A server that is gone answers a call after a minute of retries: then it is left alone for longer than that.
_PAUSE_S = 300.0
_silent_until = 0.0


def _harmless(function: Callable[P, None]) -> Callable[P, None]:
    """Only inside a Prefect run, and a refusal of the server is logged, not raised."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        global _silent_until
        if FlowRunContext.get() is None or time.monotonic() < _silent_until:
            return
        try:
            function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, httpx.TransportError):
                _silent_until = time.monotonic() + _PAUSE_S
            run_logger().warning("%s was not stored: %s", function.__name__, error)

    return guarded


class ProgressArtifact:
    """One bar in the UI that moves while a refresh works.

    Args:
        dataset: part of the artifact's key.
    """

    def __init__(self, dataset: str) -> None:
        self._key, self._id, self._sent_at, self._sent = f"progress-{key_part(dataset)}", None, 0.0, -1.0
        self._counts: dict[str, tuple[int, int]] = {}
        self._id: UUID | None

    def __call__(self, step: str, done: int, total: int) -> None:
        """Notes how far a step is; sent at most every two seconds, and always at the end of a step."""
        self._counts[step] = (done, max(total, 1))
        if done >= total or time.monotonic() - self._sent_at >= _MIN_UPDATE_S:
            self._send()

    @_harmless
    def _send(self) -> None:
        shares = {step: min(1.0, done / total) for step, (done, total) in self._counts.items()}
        percent = round(100 * sum(_WEIGHTS.get(step, 0.0) * share for step, share in shares.items()), 1)
        if percent == self._sent:
            return
        text = ", ".join(f"{step} {done}/{total}" for step, (done, total) in self._counts.items())
        if self._id is None:
            self._id = create_progress_artifact(percent, key=self._key, description=text)  # pyright: ignore
        else:
            update_progress_artifact(self._id, percent, description=text)
        self._sent_at, self._sent = time.monotonic(), percent


@_harmless
def publish_artifacts(snapshot: Snapshot, outcome: RefreshOutcome) -> None:
    """Summary, table of source issues, contact sheet and link to the report, of a finished refresh."""
    name = key_part(snapshot.body.dataset)
    create_markdown_artifact(
        summary_text(snapshot, outcome), key=f"summary-{name}", description="What this refresh did"
    )
    rows = source_issues(snapshot)
    if rows:
        what = f"{len(rows)} rejected and failed sources, and why" + (
            f"; first {_MAX_ROWS}" if len(rows) > _MAX_ROWS else ""
        )
        create_table_artifact(rows[:_MAX_ROWS], key=f"issues-{name}", description=what)
    from tasks.report.contact_sheet import sheet_image

    image = sheet_image(snapshot)
    if image:
        create_image_artifact(image, key=f"contact-sheet-{name}", description="Frames with landmarks and face box")
    create_link_artifact(
        report_url(snapshot), link_text=f"report of snapshot {snapshot.body.number}", key=f"report-{name}",
        description="The whole report",
    )  # fmt: skip


@_harmless
def failure_artifact(options: RefreshOptions, error: BaseException) -> None:
    """What went wrong, and the commands that look closer and go on."""
    where = f"--store {shlex.quote(str(options.store))}"
    text = (
        f"# {options.dataset}: the refresh failed\n\n`{type(error).__name__}`: {error}\n\nWhat was committed is kept. "
        f"Look closer with\n\n    talkset status {where}\n    talkset explain NAME {where}\n\nand go on with\n\n"
        f"    talkset refresh {shlex.quote(options.dataset)} {where}\n"
    )
    create_markdown_artifact(
        text, key=f"failure-{key_part(options.dataset)}", description="Why this refresh failed, and how to go on"
    )


def close_lost_task_run(future: Any, error: Exception) -> None:
    """A task whose workers died is left 'Running' by Prefect for good: it is marked as crashed."""
    task_run_id = getattr(future, "task_run_id", None)
    if task_run_id is None or FlowRunContext.get() is None:
        return
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        client.set_task_run_state(task_run_id, Crashed(message=f"{type(error).__name__}: its worker died"), force=True)


def summary_text(snapshot: Snapshot, outcome: RefreshOutcome) -> str:
    """Markdown: counts by state and reason, what changed, and the decisions about training."""
    counts = snapshot.body.counts
    head = [
        f"# {outcome.status}: snapshot {snapshot.body.number} of {snapshot.body.dataset}",
        f"id `{snapshot.id}`, {counts['clips']['kept']} of {counts['clips']['expected']} clips kept, "
        f"{counts['hours_kept']:.3f} h, {counts['subjects']} subjects, {outcome.steps_computed} steps computed",
    ]
    tables = [
        _table("sources", {state: n for state, n in counts["sources"].items() if state != "total"}),
        _table("rejected sources by reason", counts.get("rejected", {})),
        _table("dropped clips by reason", counts.get("dropped", {})),
        _table("clips by split", snapshot.body.splits),
    ]
    return "\n\n".join([*head, *filter(None, tables), *_lines(outcome)])


def _lines(outcome: RefreshOutcome) -> Iterator[str]:
    for name, change in outcome.changes.items():
        if change:
            yield f"**sources {name}** ({len(change)}): " + ", ".join(f"`{path}`" for path in change[:20])
    for name, why in outcome.skipped_features.items():
        yield f"without **{name}**: {why}"
    for system, decision in (outcome.training or {}).items():
        yield f"**{system}**: {decision.action}; " + "; ".join(decision.reasons)


def _table(title: str, counts: Mapping[str, int]) -> str:
    rows = [f"| {name} | {count} |" for name, count in counts.items() if count]
    return "\n".join([f"| {title} | number |", "|---|---:|", *rows]) if rows else ""


def source_issues(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Every rejected and failed source with its reason and detail, failed ones first."""
    rows = snapshot.source_table.select(["path", "state", "reason", "detail"]).to_pylist()
    found = [row for row in rows if row["state"] in (State.REJECTED, State.FAILED)]
    return sorted(found, key=lambda row: (row["state"], row["reason"] or "", row["path"]))


def key_part(name: str) -> str:
    """A name as Prefect allows it in an artifact's key: lower case letters, digits and dashes."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())
