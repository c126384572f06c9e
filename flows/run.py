"""Runs a refresh from the command line: preflight, the quick answer, a server if there is none, the flow."""

import os
from typing import Any

from flows.fingerprint import unchanged_snapshot
from flows.logs import silence_console
from flows.preflight import preflight, preflight_work
from flows.server import ENVIRONMENT, prefect_server
from storage.catalog import Dataset, load_dataset
from storage.hash_cache import HashCache
from storage.objects import ObjectStore
from storage.snapshot import Snapshot
from tasks.inventory import Inventory, header_seconds, take_inventory

# How many workers a scheduler is taken to have, when shards in flight are counted; idle ones cost nothing.
_CLUSTER_WORKERS = 64


def run_refresh(options: dict[str, Any], workers: int | None, scheduler: str | None) -> dict[str, Any]:
    """The refresh flow on a cluster; answers at once when nothing has changed and no server wants to see the run.

    Args:
        options: fields of flows.refresh.RefreshOptions.
        workers, scheduler: see flows.runner.make_runner.
    """
    dataset = load_dataset(options["dataset"], options["catalog"])
    preflight(dataset, options["store"], options["wait_s"])
    inventory = _inventory(dataset, options)
    if "PREFECT_API_URL" not in os.environ and inventory.sources:
        unchanged = unchanged_snapshot(options["store"], dataset, inventory)
        if unchanged is not None:
            return _unchanged(options, unchanged)
    preflight_work(dataset)
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
    with prefect_server(options["store"] / "state" / "prefect"):
        from prefect.logging.handlers import APILogHandler

        from flows.refresh import refresh
        from flows.runner import make_runner
        from flows.stock import RefreshOptions

        silence_console()
        os.environ["TALKSET_QUIET"] = "1"
        count = workers or (_CLUSTER_WORKERS if scheduler else os.cpu_count() or 1)
        flow = refresh.with_options(task_runner=make_runner(workers, scheduler))  # pyright: ignore[reportArgumentType]
        try:
            return flow(RefreshOptions(**options, workers=count))
        finally:
            # Logs are sent in the background: the server must not be stopped before they have arrived.
            APILogHandler().flush()
            # The cluster is gone by now: what its workers could not finish has no owner any more.
            ObjectStore(options["store"]).sweep_staging()


def dry_refresh(options: dict[str, Any]) -> dict[str, Any]:
    """What a refresh would do: numbers of sources, shards, steps and minutes; nothing but the hash cache is written."""
    from flows.stock import RefreshOptions, new_run, take_stock

    run = new_run(RefreshOptions(**options))
    inventory, plan, work = take_stock(run)
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


def _inventory(dataset: Dataset, options: dict[str, Any]) -> Inventory:
    cache = HashCache(options["store"] / "state" / "files.json", header_seconds)
    inventory = take_inventory(dataset, cache)
    cache.save()
    return inventory


def _unchanged(options: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    body = snapshot.body
    return {
        "status": "unchanged", "dataset": body.dataset, "store": str(options["store"]), "number": body.number,
        "id": snapshot.id, "is_new": False, "steps_computed": 0, "counts": body.counts, "splits": body.splits,
        "skipped_features": body.skipped_features, "failed": {},
    }  # fmt: skip
