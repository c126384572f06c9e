"""How the command prints its answers: one function per kind of record, and JSON for all of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from storage.store_layout import report_folder

if TYPE_CHECKING:  # the records' modules load pyarrow, which `talkset --help` does not need
    from flows.cli.run_refresh import DryRun
    from flows.pipeline.outcome import RefreshOutcome
    from flows.train import TrainingResult
    from tasks.store.explain import ExplainedClip, Explanation, ReasonText
    from tasks.store.lineage.history import RunLine
    from tasks.store.lineage.of_run import RunLineage
    from tasks.store.lineage.of_snapshot import SnapshotLineage
    from tasks.store.lineage.of_source import SourceAnswer, SourceRun
    from tasks.store.status import StoreStatus
    from tasks.store.takedown import TakedownAnswer, TakedownList
    from tasks.store.verify import Verification

Answer = TypeVar("Answer")


def show(answer: Answer, as_json: bool, show: Callable[[Answer], None]) -> None:
    """Prints an answer, a record or a mapping: as JSON, or as text by its own function."""
    if as_json:
        from storage.records import as_json as document

        print(json.dumps(document(answer), indent=1, ensure_ascii=False, default=str))
    else:
        show(answer)


def show_tree(answer: Any) -> None:
    """Nested values of a record or a mapping, one per line; of long lists the first fifty."""
    from storage.records import as_json

    print_tree(as_json(answer))


def print_tree(values: Mapping[str, Any], indent: str = "") -> None:
    """The lines of a JSON document."""
    for key, inner in values.items():
        if isinstance(inner, Mapping) and inner:
            print(f"{indent}{key}:")
            print_tree(inner, indent + "  ")
        elif isinstance(inner, list):
            print(f"{indent}{key}: {len(inner)}")
            for item in inner[:50]:
                print(f"{indent}  {item}")
        else:
            print(f"{indent}{key}: {inner}")


def show_outcome(outcome: "RefreshOutcome") -> None:
    """What a refresh did."""
    counts = outcome.counts
    sources = ", ".join(f"{n} {state}" for state, n in counts["sources"].items() if n and state != "total")
    print(
        f"{outcome.status}: snapshot {outcome.number} ({outcome.id[:12]}) of {outcome.dataset}: "
        f"{counts['clips']['kept']} of {counts['clips']['expected']} clips, {counts['hours_kept'] * 60:.1f} min, "
        f"{counts['subjects']} subjects; {counts['sources']['total']} sources: {sources}; {outcome.seconds} s"
    )
    for name, why in outcome.skipped_features.items():
        print(f"without {name}: {why}")
    for source, error in outcome.failed.items():
        print(f"failed {source}: {error}; see `talkset explain {source}`")
    for system, decision in (outcome.training or {}).items():
        print(f"training {system}: {decision.action} ({'; '.join(decision.reasons)})")
    print(f"report: {report_folder(Path(outcome.store), outcome.number) / 'index.html'}")


def show_dry_run(answer: "DryRun") -> None:
    """What a refresh would do."""
    print(
        f"{answer.sources} sources ({answer.unusable} unusable, {answer.duplicates} duplicates) in "
        f"{answer.shards} shards; to do: {answer.cuts} cuts ({answer.minutes:.1f} min of video), "
        f"{answer.tables} feature tables"
    )
    for name, why in answer.skipped_features.items():
        print(f"without {name}: {why}")


def show_status(status: "StoreStatus") -> None:
    """Snapshots of a store."""
    writer = status.writer
    print(f"{status.store}: dataset {status.dataset}, {status.bytes / 2**20:.1f} MiB in {status.objects} objects")
    print(f"writer: {f'process {writer.pid} on {writer.host} since {writer.start}' if writer else 'none'}")
    for line in status.snapshots:
        print(f"  {line.number:6d}  {line.id[:12]}  {line.created_at}  {line.kept} clips, {line.hours:.3f} h")


def show_explanation(explanation: "Explanation") -> None:
    """What happened to sources and their clips."""
    for source in explanation.sources:
        reason = f" {source.reason}" if source.reason else ""
        detail = f": {source.detail}" if source.detail else ""
        print(f"{source.path}  {source.state}{reason}{detail}")
        show_reason(source.why, "  ")
        video = f"{source.codec} {source.width_px}x{source.height_px} {source.avg_fps:.3g} fps"
        print(f"  {video}, subject {source.subject}, id {source.source_id}")
        for clip in source.clips:
            show_clip(clip)


def show_clip(clip: "ExplainedClip") -> None:
    """What happened to a clip, and its scores."""
    outcome = "kept" if clip.is_kept else f"dropped {clip.reason}: {clip.detail}"
    print(f"  {clip.name}  {clip.num_frames} frames from {clip.start_s:.2f} s, {clip.split}: {outcome}")
    show_reason(clip.why, "    ")
    scores = ", ".join(f"{name} {value:.4g}" for name, value in clip.scores.items() if value == value)
    if scores:
        print(f"    {scores}")


def show_reason(why: "ReasonText | None", indent: str) -> None:
    """The step that gave a reason, its meaning, and what to change; nothing when there is no reason."""
    if why:
        print(f"{indent}step: {why.step}\n{indent}meaning: {why.meaning}\n{indent}to change: {why.change}")


def show_training(result: "TrainingResult") -> None:
    """What was trained, stage by stage."""
    print(f"{result.system} on snapshot {result.number} of {result.dataset} ({result.snapshot[:12]})")
    for line in result.stages:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in line.metrics.items())
        print(f"  {line.stage}: {line.state} after {line.step} steps; {figures}\n    {line.model}")


def show_verification(verification: "Verification") -> None:
    """Whether a snapshot is whole."""
    for problem in verification.problems:
        print(f"  {problem}")
    state = "whole" if verification.is_whole else f"{len(verification.problems)} problems"
    print(f"snapshot {verification.snapshot} ({verification.id[:12]}): {state}")


def show_lineage(answer: "SourceAnswer | SnapshotLineage | RunLineage") -> None:
    """Where a source went, what a snapshot led to, or what a checkpoint was made of."""
    if answer.kind == "source":
        show_source_lineage(answer)
    elif answer.kind == "snapshot":
        show_snapshot_lineage(answer)
    else:
        show_run_lineage(answer)
    if answer.gone:
        print("collected by gc: snapshots " + ", ".join(str(gone.number) for gone in answer.gone))


def show_source_lineage(answer: "SourceAnswer") -> None:
    """The snapshots and runs of each content that a source has had."""
    for source in answer.sources:
        until = source.until if source.until is not None else "now"
        print(f"{', '.join(source.paths)}  sha256 {source.sha256[:12]}, snapshots {source.since} to {until}")
        if source.takedown:
            print(f"  taken down {source.takedown.taken_at}: {source.takedown.reason}")
        for found in source.snapshots:
            kept = f"{found.num_clips} clips {', '.join(found.splits)}"
            print(f"  snapshot {found.number} ({found.id[:12]}): {found.state}, {kept}")
        for run in source.runs:
            show_run(run, use_of(run) + ("" if run.is_direct else f", through {', '.join(run.through)}"))


def show_snapshot_lineage(answer: "SnapshotLineage") -> None:
    """The parents of a snapshot and the runs made from it."""
    state = "collected by gc" if answer.is_gone else f"published {answer.created_at}"
    print(f"snapshot {answer.number} of {answer.dataset} ({answer.id[:12]}), {state}")
    print("  parents: " + (", ".join(f"{one.number} ({one.id[:12]})" for one in answer.parents) or "none"))
    for kind, sources in answer.sources.items():
        print(f"  sources {kind}: {len(sources)}")
    for run in answer.runs:
        show_run(run, "made from it")


def show_run_lineage(answer: "RunLineage") -> None:
    """The parents, the data and the weights of a run."""
    show_run(answer.run, "this run")
    for parent in answer.parents:
        print(f"    starts from {parent.run} ({parent.as_}{', gone' if parent.is_gone else ''})")
    for data in answer.data:
        print(f"  snapshot {data.number} ({data.id[:12]}): {len(data.sources)} sources")
        for split, subjects in data.subjects.items():
            print(f"    {split}: {', '.join(subjects)}")
        for source in data.sources:
            if source.is_taken_down:
                print(f"    taken down meanwhile: {source.path} ({source.split}, {source.num_clips} clips)")
    for weight in answer.weights:
        bound = ", non-commercial" if weight.is_noncommercial else ""
        print(f"  weights {weight.name} {weight.sha256[:12]}: {weight.licence}{bound}")


def show_run(run: "RunLine", use: str) -> None:
    """A run in one line.

    Args:
        run: which.
        use: what it has to do with the thing that was asked for.
    """
    files = ", ".join(f"{one.file} {one.sha256[:12]}" for one in run.checkpoints if one.kind == "model")
    print(f"  {run.run} ({run.preset}, {run.state}): {use}; {files or 'no model file'}")


def use_of(run: "SourceRun") -> str:
    """How a run used a source."""
    return "trained on it" if run.is_trained_on else f"seen in {', '.join(run.splits)}"


def show_takedown(answer: "TakedownAnswer") -> None:
    """What was taken down, the runs that it concerns, and what is left to do."""
    entry = answer.takedown
    print(f"{entry.path} {'is taken down' if answer.is_new else 'was taken down before'}: {entry.reason}")
    for run in answer.runs:
        show_run(run, use_of(run))
    for line in answer.next:
        print(f"- {line}")


def show_takedowns(answer: "TakedownList") -> None:
    """The list of takedowns."""
    for entry in answer.takedowns:
        where = "still in the latest snapshot: refresh" if entry.is_in_latest else "out"
        print(f"{entry.path}  {entry.taken_at}  {entry.reason}  ({where})")
    print(f"{len(answer.takedowns)} takedowns")
