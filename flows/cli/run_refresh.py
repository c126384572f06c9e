"""Runs a refresh from the command line: the quick answer, a server if there is none, the flow."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from flows.cli.signals import end_within
from flows.pipeline.outcome import RefreshOutcome, outcome
from flows.pipeline.prepare import Run, hand_over, open_run, plan_work, unlocked_run
from flows.refresh_options import RefreshOptions
from flows.reporting.logs import silence_console
from flows.server.prefect_server import prefect_server, set_defaults
from storage.errors import ServiceLost
from storage.store_layout import prefect_folder

# How long Prefect may go on sending records to a server that is gone.
_GRACE_S = 8.0


def run_refresh(options: RefreshOptions, train: bool = False) -> RefreshOutcome:
    """The refresh flow; answers at once when nothing has changed and no server is to show the run.

    The store is locked and read once, before anything is started; the flow goes on with what was read.

    Args:
        options: what to do; with has_server False the work is done without Prefect.
        train: whether training may follow, see flows.pipeline.start_training.

    Raises:
        ServiceLost: the Prefect server or the Dask cluster went away meanwhile.
    """
    with open_run(options) as run:
        if run.unchanged and not train and "PREFECT_API_URL" not in os.environ:
            return outcome(run.unchanged, False, 0)
        set_defaults()
        os.environ["TALKSET_QUIET"] = "1"
        if options.has_server:
            return run_flow(run, train)
        from flows.refresh import run_dag

        return run_dag(run, train)


def run_flow(run: Run, train: bool) -> RefreshOutcome:
    """The refresh as a Prefect flow run, on the server of PREFECT_API_URL or on one of its own.

    Raises:
        ServiceLost: the server went away.
    """
    with prefect_server(prefect_folder(run.options.store)) as url:
        import httpx
        from prefect.logging.handlers import APILogHandler

        from flows.refresh import refresh

        silence_console()
        try:
            with hand_over(run):
                return refresh(**run.options.model_dump(exclude={"has_server"}), train=train)  # pyright: ignore
        except httpx.TransportError as error:
            end_within(_GRACE_S, 1)
            raise ServiceLost(
                f"the Prefect server {url} is gone ({type(error).__name__}); what was committed is kept: "
                "refresh again, or with --no-server"
            ) from error
        finally:
            # Logs are sent in the background: the server must not be stopped before they have arrived.
            APILogHandler().flush()


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a refresh would do.

    Attributes:
        dataset: its name.
        sources, unusable, duplicates: sources of the inventory, those that are rejected unread, and repeated contents.
        shards: shards of the plan.
        cuts: shards that are not cut yet. minutes: video in them.
        tables: feature tables that are missing.
        skipped_features: extractor -> why it cannot run on this machine.
    """

    dataset: str
    sources: int
    unusable: int
    duplicates: int
    shards: int
    cuts: int
    minutes: float
    tables: int
    skipped_features: Mapping[str, str]


def dry_refresh(options: RefreshOptions) -> DryRun:
    """Counts what a refresh would do; writes nothing but the hash cache."""
    run = unlocked_run(options)
    work = plan_work(run)
    run.progress.close()
    todo = [item for item in work.shards if item.cut is None]
    return DryRun(
        dataset=run.dataset.name,
        sources=len(work.inventory.sources),
        unusable=sum(not source.is_usable for source in work.inventory.sources),
        duplicates=len(work.plan.duplicates),
        shards=len(work.plan.shards),
        cuts=len(todo),
        minutes=sum(item.shard.minutes for item in todo),
        tables=sum(len(run.params) - len(item.features) for item in work.shards),
        skipped_features=run.skipped,
    )
