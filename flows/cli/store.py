"""Commands on a store: status, explain, verify, diff, lineage, takedown, report, gc."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import EXIT_FAILED, JsonOption, SnapshotOption, StoreOption, existing_store
from flows.cli.output import (
    show,
    show_explanation,
    show_lineage,
    show_status,
    show_takedown,
    show_takedowns,
    show_tree,
    show_verification,
)
from storage.errors import ConfigError
from storage.store_layout import report_folder


def status(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the snapshots of a store, its size, and the process that is writing to it."""
    from tasks.store.status import store_status

    show(store_status(existing_store(store)), as_json, show_status)


def explain(
    name: Annotated[str, typer.Argument(help="Path, file name, clip name or id.")],
    store: StoreOption = None,
    snapshot: SnapshotOption = "latest",
    as_json: JsonOption = False,
) -> None:
    """Print what happened to a source or clip: state, reason and what to change, scores."""
    from storage.snapshot import Snapshot
    from tasks.store.explain import explain as explain_name

    show(explain_name(Snapshot.open(existing_store(store), snapshot), name), as_json, show_explanation)


def verify(store: StoreOption = None, snapshot: SnapshotOption = "latest", as_json: JsonOption = False) -> None:
    """Read every byte of a snapshot: digests of all objects, LMDB keys = Parquet rows = manifest."""
    from flows.reporting.progress import Progress
    from storage.snapshot import Snapshot
    from tasks.store.verify import verify_snapshot

    found = Snapshot.open(existing_store(store), snapshot)
    progress = Progress(as_json)
    progress.start("verify", len(found.body.shards), "shards")
    answer = verify_snapshot(found, lambda: progress.add("verify"))
    progress.close()
    show(answer, as_json, show_verification)
    if not answer.is_whole:
        raise typer.Exit(EXIT_FAILED)


def diff(
    old: Annotated[str, typer.Argument(help="Snapshot A.")],
    new: Annotated[str, typer.Argument(help="Snapshot B.")] = "latest",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what changed from snapshot A to snapshot B: sources, clips, settings."""
    from storage.snapshot import Snapshot
    from tasks.store.diff import diff_snapshots

    folder = existing_store(store)
    show(diff_snapshots(Snapshot.open(folder, old), Snapshot.open(folder, new)), as_json, show_tree)


def lineage(
    name: Annotated[str, typer.Argument(help="Source, snapshot (number, id, latest), run or checkpoint.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trace sources, snapshots, runs and checkpoints in both directions: what is in them, where they went."""
    from tasks.store.lineage import lineage as lineage_of

    show(lineage_of(existing_store(store), name), as_json, show_lineage)


def takedown(
    source: Annotated[
        str | None, typer.Argument(help="Path, file name, or digits of its id. [default: list them]")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; printed wherever the source is listed.")] = "",
    who: Annotated[str, typer.Option(help="Who asked for it.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Put the source back.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Withdraw a source for good; the next refresh publishes without it. Lists the checkpoints trained on it."""
    from tasks.store.takedown import list_takedowns, put_back, take_down

    folder = existing_store(store)
    if source is None:
        show(list_takedowns(folder), as_json, show_takedowns)
    elif undo:
        show(put_back(folder, source), as_json, show_tree)
    elif not reason:
        raise ConfigError("--reason is missing; it is printed wherever the source is listed")
    else:
        show(take_down(folder, source, reason, who), as_json, show_takedown)


def report(
    store: StoreOption = None,
    snapshot: SnapshotOption = "latest",
    out: Annotated[Path | None, typer.Option(help="Folder. [default: reports/<number> in the store]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the HTML report and the dataset card of a snapshot."""
    from storage.snapshot import Snapshot
    from tasks.report import write_report

    found = Snapshot.open(existing_store(store), snapshot)
    files = write_report(found, out or report_folder(found.store, found.body.number))
    show({"report": str(files.page), "card": str(files.card)}, as_json, show_tree)


def gc(
    store: StoreOption = None,
    keep: Annotated[int, typer.Option(min=1, help="Newest snapshots to keep.")] = 10,
    grace_hours: Annotated[float, typer.Option(min=0, help="Keep objects younger than this.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove objects that no kept snapshot needs."""
    from tasks.store.gc import collect

    show(collect(existing_store(store), keep, grace_hours, dry_run), as_json, show_tree)


STORE_COMMANDS = (status, explain, verify, diff, lineage, takedown, report, gc)
