"""THE DAG: inventory -> plan -> per shard (cut -> extractors) -> publish -> report -> gate -> training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.code_version import code_version
from flows.execution.fan_out import compute
from flows.pipeline.fingerprint import remember_fingerprint, unchanged_snapshot
from flows.pipeline.outcome import failed_sources, outcome
from flows.pipeline.preflight import preflight, preflight_work
from flows.pipeline.prepare import Run, count_sources, open_run, plan_work
from flows.pipeline.start_training import hand_off
from flows.refresh_options import RefreshOptions
from flows.reporting.artifacts import ProgressArtifact, failure_artifact, publish_artifacts
from storage.catalog import load_dataset
from storage.snapshot import Snapshot
from storage.store_layout import report_folder
from storage.stores import default_store
from tasks.inventory import Inventory
from tasks.publish import publish_snapshot
from tasks.report import write_report


@flow(name="refresh", flow_run_name="refresh-{dataset}", persist_result=False, result_serializer="json")
def refresh(
    dataset: str, store: Path | None = None, catalog: Path | None = None, workers: int | None = None,
    scheduler: str | None = None, worker_memory: str | None = None, limit: int | None = None,
    retry_failed: bool = False, wait_s: float = 0.0, train: bool = False, is_quiet: bool = True,
) -> State[dict[str, Any]]:  # fmt: skip
    """Brings a dataset's store up to date with its raw files and publishes a snapshot if anything changed.

    Args:
        dataset: Block of datasets.yaml.
        store: Folder of the dataset's store. Default: its name in the first folder of $TALKSET_STORES, or in ./stores.
        catalog: Another datasets.yaml.
        workers: Local worker processes; one per core by default.
        scheduler: Address of a running Dask scheduler (tcp:// or tls://) to use instead of local processes.
        worker_memory: Memory limit of each local process, such as 4GiB; an equal share by default.
        limit: Work on at most this many sources that the latest snapshot does not know.
        retry_failed: Leave new sources aside and work on those that failed in the last run.
        wait_s: Seconds to wait for another writer of this store.
        train: Start training where the new snapshot earns it (see `training` in datasets.yaml).
        is_quiet: No progress bars on the terminal.

    Returns:
        Completed, named 'Done', 'Partial' or 'Unchanged', with the answer of flows.pipeline.outcome.
    """
    folder = (store or default_store(dataset)).absolute()
    options = RefreshOptions(
        dataset=dataset, store=folder, catalog=catalog, workers=workers, scheduler=scheduler,
        worker_memory=worker_memory, limit=limit, retry_failed=retry_failed, wait_s=wait_s, is_quiet=is_quiet,
    )  # fmt: skip
    answer = run_dag(options, train)
    return Completed(name=answer["status"].capitalize(), message=_message(answer), data=answer)


def run_dag(options: RefreshOptions, train: bool) -> dict[str, Any]:
    """One refresh, inside a Prefect run or without one; the answer of flows.pipeline.outcome."""
    with _explained(options):
        preflight(load_dataset(options.dataset, options.catalog), options.store, options.wait_s)
        with open_run(options, ProgressArtifact(options.dataset)) as run:
            inventory = count_sources(run)
            snapshot = unchanged_snapshot(options.store, run.dataset, inventory)
            is_new = False
            if snapshot is None:
                snapshot, is_new = _renew(run, inventory)
        answer = outcome(snapshot, is_new, run.num_new, snapshot.body.skipped_features)
        if train:
            answer["training"] = hand_off(snapshot, run.dataset, options)
        publish_artifacts(snapshot, answer)
    return answer


def _renew(run: Run, inventory: Inventory) -> tuple[Snapshot, bool]:
    """Plan, compute, publish, report; the latest snapshot and whether it is new."""
    preflight_work(run.dataset)
    inventory, plan, work = plan_work(run, inventory)
    compute(run, work)
    store = run.options.store
    with run.progress.step("publish", "snapshot"):
        snapshot, is_new = publish_snapshot(
            run.dataset, store, inventory, plan, run.results, run.failed, run.skipped, code_version()
        )
    with run.progress.step("report", "page"):
        folder = report_folder(store, snapshot.body.number)
        if is_new or not (folder / "index.html").exists():
            write_report(snapshot, folder)
    remember_fingerprint(store, run.dataset, inventory, snapshot, is_complete=not failed_sources(snapshot))
    return snapshot, is_new


@contextmanager
def _explained(options: RefreshOptions) -> Iterator[None]:
    """A failure leaves an artifact that says what happened and how to look closer."""
    try:
        yield
    except Exception as error:
        failure_artifact(options, error)
        raise


def _message(answer: dict[str, Any]) -> str:
    clips = answer["counts"]["clips"]
    return f"snapshot {answer['number']} ({answer['id'][:12]}): {clips['kept']} of {clips['expected']} clips"
