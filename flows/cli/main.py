"""The `talkset` command. Exit codes: 0 done, 1 failed, 2 usage, 3 partial, 4 locked; 130 and 143 when interrupted.

Nothing heavy is imported until a command runs: `talkset --help` takes a moment.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from flows.cli.animate import animate_app
from flows.cli.edtalk import edtalk_app
from flows.cli.export import export_app
from flows.cli.options import (
    EXIT_FAILED,
    EXIT_LOCKED,
    EXIT_PARTIAL,
    EXIT_USAGE,
    CatalogOption,
    DatasetArg,
    JsonOption,
    StoreOption,
    dataset_store,
)
from flows.cli.output import show, show_dry_run, show_outcome, show_training
from flows.cli.signals import Stopped, raise_on_signals
from flows.cli.store import STORE_COMMANDS
from flows.cli.weights import weights_app
from storage.errors import ConfigError, LockedError, TalksetError

# How long an interrupted command may take to stop its workers and its server; afterwards they are killed with it.
_GRACE_S = 8.0

app = typer.Typer(
    help="Raw talking-head videos to versioned, train-ready datasets.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(export_app, name="export")
app.add_typer(animate_app, name="animate")
app.add_typer(edtalk_app, name="edtalk")
app.add_typer(weights_app, name="weights")


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Only sources that failed before.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another writer.")] = 0.0,
    train: Annotated[bool, typer.Option("--train", help="Train if the snapshot passes the gate.")] = False,
    no_server: Annotated[bool, typer.Option("--no-server", help="Work without Prefect; no UI.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a dataset up to date with its raw files and publish a snapshot if anything changed."""
    from flows.cli.run_refresh import dry_refresh, run_refresh
    from flows.refresh_options import RefreshOptions

    if workers is not None and scheduler:
        raise ConfigError("--workers makes a local cluster, --scheduler uses another one: give one of them")
    options = RefreshOptions(
        dataset=dataset, store=dataset_store(store, dataset), catalog=catalog, workers=workers, scheduler=scheduler,
        worker_memory=worker_memory, limit=limit, retry_failed=retry_failed, wait_s=wait, has_server=not no_server,
        is_quiet=as_json,
    )  # fmt: skip
    if dry_run:
        show(dry_refresh(options), as_json, show_dry_run)
        return
    began = time.monotonic()
    outcome = run_refresh(options, train)
    show(replace(outcome, seconds=round(time.monotonic() - began, 2)), as_json, show_outcome)
    if outcome.status == "partial":
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
        answer = train_stages(options)
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


for command in STORE_COMMANDS:
    app.command()(command)


def _fail(error: TalksetError, code: int) -> None:
    print(f"talkset: {error}", file=sys.stderr)
    sys.exit(code)
