"""Runs a refresh from the command line: preflight, the quick answer, a server if there is none, the flow."""

import os
from typing import Any

from flows.cli.signals import end_within
from flows.pipeline.fingerprint import unchanged_snapshot
from flows.pipeline.outcome import outcome
from flows.pipeline.preflight import preflight, preflight_work
from flows.pipeline.sources import read_inventory
from flows.refresh_options import RefreshOptions
from flows.reporting.logs import silence_console
from flows.server.prefect_server import prefect_server, set_defaults
from storage.catalog import load_dataset
from storage.errors import ServiceLost
from storage.objects import ObjectStore
from storage.store_layout import prefect_folder

# What Prefect still wants to tell a server that is gone is given up after this long.
_GRACE_S = 8.0


def run_refresh(options: RefreshOptions, train: bool = False) -> dict[str, Any]:
    """The refresh flow; answers at once when nothing has changed and no server wants to see the run.

    Args:
        options: what to do; with has_server False the work is done without Prefect.
        train: whether training may follow, see flows.pipeline.start_training.

    Returns:
        See flows.pipeline.outcome.

    Raises:
        ServiceLost: the Prefect server or the Dask cluster went away meanwhile.
    """
    dataset = load_dataset(options.dataset, options.catalog)
    preflight(dataset, options.store, options.wait_s)
    inventory = read_inventory(dataset, options.store)
    if "PREFECT_API_URL" not in os.environ and inventory.sources and not train:
        unchanged = unchanged_snapshot(options.store, dataset, inventory)
        if unchanged is not None:
            return outcome(unchanged, False, 0, unchanged.body.skipped_features)
    preflight_work(dataset)
    set_defaults()
    os.environ["TALKSET_QUIET"] = "1"
    try:
        return _with_server(options, train) if options.has_server else _without_server(options, train)
    finally:
        # The cluster is gone by now: what its workers could not finish has no owner any more.
        ObjectStore(options.store).sweep_staging()


def _with_server(options: RefreshOptions, train: bool) -> dict[str, Any]:
    with prefect_server(prefect_folder(options.store)) as url:
        import httpx
        from prefect.logging.handlers import APILogHandler

        from flows.refresh import refresh

        silence_console()
        try:
            return refresh(**options.model_dump(exclude={"has_server"}), train=train)  # pyright: ignore
        except httpx.TransportError as error:
            end_within(_GRACE_S, 1)
            raise ServiceLost(
                f"the Prefect server {url} is gone ({type(error).__name__}); what was committed is kept: "
                "refresh again, or with --no-server"
            ) from error
        finally:
            # Logs are sent in the background: the server must not be stopped before they have arrived.
            APILogHandler().flush()


def _without_server(options: RefreshOptions, train: bool) -> dict[str, Any]:
    from flows.refresh import run_dag

    return run_dag(options, train)


def dry_refresh(options: RefreshOptions) -> dict[str, Any]:
    """What a refresh would do: numbers of sources, shards, steps and minutes; nothing but the hash cache is written."""
    from flows.pipeline.prepare import count_sources, new_run, plan_work

    run = new_run(options)
    inventory, plan, work = plan_work(run, count_sources(run))
    todo = [item for item in work if item.cut is None]
    missing = sum(len(run.params) - len(item.features) for item in work)
    return {
        "dataset": run.dataset.name,
        "sources": len(inventory.sources),
        "unusable": sum(not source.is_usable for source in inventory.sources),
        "duplicates": len(plan.duplicates),
        "shards": len(plan.shards),
        "cuts": len(todo),
        "minutes": sum(item.shard.minutes for item in todo),
        "tables": missing,
        "skipped_features": dict(run.skipped),
    }
