"""The `talkset` command. Exit codes: 0 done, 1 failed, 2 usage, 3 partial, 4 locked; 130 and 143 when interrupted."""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from flows.cli.animate import animate_app
from flows.cli.edtalk import edtalk_app
from flows.cli.output import (
    show,
    show_dry_run,
    show_explanation,
    show_lineage,
    show_outcome,
    show_status,
    show_takedown,
    show_takedowns,
    show_training,
    show_tree,
    show_verification,
)
from flows.cli.signals import Stopped, raise_on_signals
from flows.cli.weights import weights_app
from storage.errors import ConfigError, LockedError, TalksetError
from storage.snapshot import store_dataset
from storage.store_layout import store_file
from storage.stores import default_store, known_stores

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_PARTIAL, EXIT_LOCKED = range(5)

# An interrupted command has this long to stop its workers and its server; what it could not stop dies with it.
_GRACE_S = 8.0

app = typer.Typer(
    help="Raw talking-head videos to versioned, train-ready datasets.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
export_app = typer.Typer(help="Write a snapshot in another system's format.", no_args_is_help=True)
app.add_typer(export_app, name="export")
app.add_typer(animate_app, name="animate")
app.add_typer(edtalk_app, name="edtalk")
app.add_typer(weights_app, name="weights")

DatasetArg = Annotated[str, typer.Argument(help="Block of datasets.yaml.")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store. [default: $TALKSET_STORE or stores/DATASET]")
]
SnapshotOption = Annotated[str, typer.Option("--snapshot", help="latest, a number, or the first digits of an id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CatalogOption = Annotated[Path | None, typer.Option("--catalog", help="Another datasets.yaml.")]


def main() -> None:
    """Entry point: runs the command and turns errors into one line and an exit code."""
    raise_on_signals(_GRACE_S)
    try:
        app(standalone_mode=True)
    except LockedError as error:
        _fail(error, EXIT_LOCKED)
    except ConfigError as error:
        _fail(error, EXIT_USAGE)
    except TalksetError as error:
        _fail(error, EXIT_FAILED)
    except Stopped as stopped:
        print("talkset: interrupted; what was finished is kept: run the same command again", file=sys.stderr)
        sys.exit(stopped.code)


@app.command()
def demo(
    root: Annotated[Path | None, typer.Option(help="Where to make it. [default: $TALKSET_DEMO or ./demo]")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other motion.")] = 0,
) -> None:
    """Make demo data: a small MEAD tree and a small HDTF tree from two public-domain portraits, with known motion."""
    from flows.reporting.progress import Progress
    from tasks.demo import make_demo

    folder = root or Path(os.environ.get("TALKSET_DEMO", "demo"))
    progress = Progress()
    progress.start("demo", 0, "videos")
    make_demo(folder, seed=seed, progress=progress.set_total("demo"))
    progress.close()
    print(f"demo data in {folder}; next: talkset refresh demo")


@app.command()
def refresh(
    dataset: DatasetArg,
    store: StoreOption = None,
    catalog: CatalogOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Local processes. [default: one per core]")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler instead.")] = None,
    worker_memory: Annotated[str | None, typer.Option(help="Memory limit of a local process, such as 4GiB.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many new sources.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Only sources that failed before.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another writer.")] = 0.0,
    train: Annotated[bool, typer.Option("--train", help="Train where the snapshot earns it.")] = False,
    no_server: Annotated[bool, typer.Option("--no-server", help="Work without Prefect; no UI.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a dataset up to date with its raw files and publish a snapshot if anything changed."""
    from flows.cli.run_refresh import dry_refresh, run_refresh
    from flows.refresh_options import RefreshOptions

    if workers is not None and scheduler:
        raise ConfigError("--workers makes a local cluster, --scheduler uses another one: give one of them")
    options = RefreshOptions(
        dataset=dataset, store=_store(store, dataset), catalog=catalog, workers=workers, scheduler=scheduler,
        worker_memory=worker_memory, limit=limit, retry_failed=retry_failed, wait_s=wait, has_server=not no_server,
        is_quiet=as_json,
    )  # fmt: skip
    if dry_run:
        show(dry_refresh(options), as_json, show_dry_run)
        return
    began = time.monotonic()
    outcome = run_refresh(options, train)
    outcome["seconds"] = round(time.monotonic() - began, 2)
    show(outcome, as_json, show_outcome)
    if outcome["status"] == "partial":
        raise typer.Exit(EXIT_PARTIAL)


class TrainCommand(TyperCommand):
    """The train command, whose help ends with the systems that exist."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        from models.systems import systems

        self.epilog = f"Systems: {', '.join(systems())}."
        super().format_help(ctx, formatter)


@app.command(cls=TrainCommand)
def train(
    system: Annotated[str, typer.Argument(help="What to train, see below.")],
    snapshot: Annotated[str, typer.Argument(help="Id or its first digits, DATASET, or DATASET@NUMBER.")],
    preset: Annotated[str, typer.Option(help="Settings of the stages: smoke or paper.")] = "paper",
    stage: Annotated[list[str] | None, typer.Option(help="Only this one, and those it starts from.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Another value than the preset's; can be repeated."),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(help="Imported weights in place of the stage they are of: LIA, EDTalk_lip_pose or EDTalk."),
    ] = None,
    continue_from: Annotated[
        str | None, typer.Option(help="Id of a run of the one --stage; its newest state is begun with.")
    ] = None,
    allow_dataset_change: Annotated[
        bool, typer.Option("--allow-dataset-change", help="That run may have been trained on another snapshot.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a system on a published snapshot, in this process; stages that are trained already are skipped.

    Under torchrun each of its processes takes its share of every batch.
    """
    from flows.train import train_stages
    from flows.train_options import TrainOptions, parse_settings
    from models.training.engine.distributed import is_first_process
    from models.training.engine.errors import Interrupted

    options = TrainOptions(
        system, snapshot, preset, stage or (), device, as_json, parse_settings(settings or []), published,
        continue_from, allow_dataset_change,
    )  # fmt: skip
    try:
        answer = asdict(train_stages(options))
    except Interrupted as interrupted:
        raise Stopped(interrupted.exit_code) from None
    if is_first_process():
        show(answer, as_json, show_training)


@app.command()
def serve(
    home: Annotated[Path, typer.Option(help="Folder for the server's database and logs.")] = Path(".talkset"),
    project: Annotated[Path, typer.Option(help="Folder with prefect.yaml.")] = Path(),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the Prefect server; reports are on the next one.")] = 4200,
    cpu_runs: Annotated[int, typer.Option(min=1, help="Refreshes at once.")] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 1,
    poll: Annotated[float, typer.Option(min=0.5, help="Seconds between a worker's looks for work.")] = 5.0,
) -> None:
    """Start Prefect server, workers, deployments and report pages on this machine; Ctrl-C stops them all."""
    from flows.server.supervisor import STOP_GRACE_S, ServeOptions
    from flows.server.supervisor import serve as serve_all

    raise_on_signals(STOP_GRACE_S)
    serve_all(ServeOptions(home.absolute(), project.absolute(), host, port, cpu_runs, gpus, poll))


@app.command()
def status(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Snapshots of a store, what the latest one holds, and whether somebody is writing."""
    from tasks.store.status import store_status

    show(store_status(_existing(store)), as_json, show_status)


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="Path, file name, clip name or id.")],
    store: StoreOption = None,
    snapshot: SnapshotOption = "latest",
    as_json: JsonOption = False,
) -> None:
    """Print what happened to a source or clip: state, reason and what to change, scores."""
    from storage.snapshot import Snapshot
    from tasks.store.explain import explain as explain_name

    show(explain_name(Snapshot.open(_existing(store), snapshot), name), as_json, show_explanation)


@app.command()
def verify(store: StoreOption = None, snapshot: SnapshotOption = "latest", as_json: JsonOption = False) -> None:
    """Read every byte of a snapshot: digests of all objects, LMDB keys = Parquet rows = manifest."""
    from flows.reporting.progress import Progress
    from storage.snapshot import Snapshot
    from tasks.store.verify import verify_snapshot

    found = Snapshot.open(_existing(store), snapshot)
    progress = Progress(as_json)
    progress.start("verify", len(found.body.shards), "shards")
    answer = verify_snapshot(found, lambda: progress.add("verify"))
    progress.close()
    show(answer, as_json, show_verification)
    if not answer.is_whole:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="Snapshot A.")],
    new: Annotated[str, typer.Argument(help="Snapshot B.")] = "latest",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """What changed from snapshot A to snapshot B: sources, clips, settings."""
    from storage.snapshot import Snapshot
    from tasks.store.diff import diff_snapshots

    folder = _existing(store)
    show(diff_snapshots(Snapshot.open(folder, old), Snapshot.open(folder, new)), as_json, show_tree)


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="Source, snapshot (number, id, latest), run or checkpoint.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what something went into and what it was made of: sources, snapshots, runs, checkpoints, both ways."""
    from tasks.store.lineage import lineage as lineage_of

    show(lineage_of(_existing(store), name), as_json, show_lineage)


@app.command()
def takedown(
    source: Annotated[
        str | None, typer.Argument(help="Path, file name, or digits of its id. [default: list them]")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the source is listed.")] = "",
    who: Annotated[str, typer.Option(help="Who asked for it.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Put the source back.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a source out for good; the next refresh publishes without it. Lists the checkpoints it went into."""
    from tasks.store.takedown import list_takedowns, put_back, take_down

    folder = _existing(store)
    if source is None:
        show(list_takedowns(folder), as_json, show_takedowns)
    elif undo:
        show(put_back(folder, source), as_json, show_tree)
    elif not reason:
        raise ConfigError("--reason is missing: say why, it is shown wherever the source is listed")
    else:
        show(take_down(folder, source, reason, who), as_json, show_takedown)


@app.command()
def report(
    store: StoreOption = None,
    snapshot: SnapshotOption = "latest",
    out: Annotated[Path | None, typer.Option(help="Folder. [default: reports/<number> in the store]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the HTML report and the dataset card of a snapshot."""
    from storage.snapshot import Snapshot
    from storage.store_layout import report_folder
    from tasks.report import write_report

    found = Snapshot.open(_existing(store), snapshot)
    folder = out or report_folder(found.store, found.body.number)
    write_report(found, folder)
    show({"report": str(folder / "index.html"), "card": str(folder / "README.md")}, as_json, show_tree)


@app.command()
def gc(
    store: StoreOption = None,
    keep: Annotated[int, typer.Option(min=1, help="Newest snapshots to keep.")] = 10,
    grace_hours: Annotated[float, typer.Option(min=0, help="Younger objects stay.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove objects that no kept snapshot needs."""
    from tasks.store.gc import collect

    show(collect(_existing(store), keep, grace_hours, dry_run), as_json, show_tree)


@export_app.command("edtalk")
def export_edtalk(
    out: Annotated[Path, typer.Argument(help="New folder.")], store: StoreOption = None,
    snapshot: SnapshotOption = "latest", as_json: JsonOption = False,
) -> None:  # fmt: skip
    """The tree, LMDB and list files that EDTalk's own training scripts read."""
    _export("edtalk", out, store, snapshot, as_json)


@export_app.command("emogene")
def export_emogene(
    out: Annotated[Path, typer.Argument(help="New folder.")], store: StoreOption = None,
    snapshot: SnapshotOption = "latest", as_json: JsonOption = False,
) -> None:  # fmt: skip
    """One folder of arrays per clip, as the GeneFace line lays them out."""
    _export("emogene", out, store, snapshot, as_json)


@export_app.command("webdataset")
def export_webdataset(
    out: Annotated[Path, typer.Argument(help="New folder.")], store: StoreOption = None,
    snapshot: SnapshotOption = "latest", as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Tar shards of samples for streaming loaders."""
    _export("webdataset", out, store, snapshot, as_json)


def _export(kind: str, out: Path, store: Path | None, snapshot: str, as_json: bool) -> None:
    from flows.reporting.progress import Progress
    from storage.snapshot import Snapshot
    from tasks import export

    found = Snapshot.open(_existing(store), snapshot)
    progress = Progress(as_json)
    progress.start("export", len(found.clips()), "clips")
    exporter = {
        "edtalk": export.export_edtalk,
        "emogene": export.export_emogene,
        "webdataset": export.export_webdataset,
    }
    summary = exporter[kind](found, out, lambda: progress.add("export"))
    progress.close()
    show({"out": str(out), **asdict(summary)}, as_json, show_tree)


# ---- stores


def _store(given: Path | None, dataset: str) -> Path:
    """The store of a dataset that may not exist yet."""
    named = os.environ.get("TALKSET_STORE")
    return (given or (Path(named) if named else default_store(dataset))).absolute()


def _existing(given: Path | None) -> Path:
    """The store that is meant: given, $TALKSET_STORE, the working folder, or the only one in stores/."""
    named = os.environ.get("TALKSET_STORE")
    if given or named:
        folder = Path(given or str(named)).absolute()
        store_dataset(folder)
        return folder
    if store_file(Path()).is_file():
        return Path.cwd()
    found = known_stores()
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path) for path in found) or f"none in {default_store('x').parent}"
    raise ConfigError(f"which store? pass --store or set TALKSET_STORE (found: {names})")


def _fail(error: TalksetError, code: int) -> None:
    print(f"talkset: {error}", file=sys.stderr)
    sys.exit(code)
