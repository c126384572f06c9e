"""talkset export: a snapshot in the formats of other systems."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import JsonOption, SnapshotOption, StoreOption, existing_store
from flows.cli.output import show, show_tree

if TYPE_CHECKING:
    from storage.snapshot import Snapshot
    from tasks.export import ExportSummary

export_app = typer.Typer(help="Write a snapshot in another system's format.", no_args_is_help=True)

FolderArg = Annotated[Path, typer.Argument(help="New folder.")]


@export_app.command("edtalk")
def export_edtalk(
    out: FolderArg, store: StoreOption = None, snapshot: SnapshotOption = "latest", as_json: JsonOption = False
) -> None:
    """The tree, LMDB and list files that EDTalk's own training scripts read."""
    from tasks.export import export_edtalk

    run_export(export_edtalk, out, store, snapshot, as_json)


@export_app.command("emogene")
def export_emogene(
    out: FolderArg, store: StoreOption = None, snapshot: SnapshotOption = "latest", as_json: JsonOption = False
) -> None:
    """One folder of arrays per clip, as the GeneFace line lays them out."""
    from tasks.export import export_emogene

    run_export(export_emogene, out, store, snapshot, as_json)


@export_app.command("webdataset")
def export_webdataset(
    out: FolderArg, store: StoreOption = None, snapshot: SnapshotOption = "latest", as_json: JsonOption = False
) -> None:
    """Tar shards of samples for streaming loaders."""
    from tasks.export import export_webdataset

    run_export(export_webdataset, out, store, snapshot, as_json)


def run_export(
    write: "Callable[[Snapshot, Path, Callable[[], None]], ExportSummary]",
    out: Path, store: Path | None, snapshot: str, as_json: bool,
) -> None:  # fmt: skip
    """Writes the snapshot by `write` with a progress bar and prints the summary of the export."""
    from flows.reporting.progress import Progress
    from storage.snapshot import Snapshot

    found = Snapshot.open(existing_store(store), snapshot)
    progress = Progress(as_json)
    progress.start("export", len(found.clips()), "clips")
    summary = write(found, out, lambda: progress.add("export"))
    progress.close()
    show({"out": str(out), **asdict(summary)}, as_json, show_tree)
