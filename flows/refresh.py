"""THE DAG: inventory -> plan -> per shard (cut -> extractors) -> publish -> report -> gate -> training."""

from dataclasses import replace
from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from flows.code_version import code_version
from flows.execution.fan_out import compute
from flows.pipeline.fingerprint import remember_fingerprint
from flows.pipeline.outcome import RefreshOutcome, failed_sources, outcome
from flows.pipeline.prepare import Run, plan_work, take_run
from flows.pipeline.start_training import hand_off
from flows.refresh_options import RefreshOptions
from flows.reporting.artifacts import ProgressArtifact, failure_artifact, publish_artifacts
from storage.snapshot import Snapshot, bind_store
from storage.store_layout import report_folder
from storage.stores import default_store
from tasks.publish import RefreshResults, publish_snapshot
from tasks.report import write_report


@flow(name="refresh", flow_run_name="refresh-{dataset}", persist_result=False, result_serializer="json")
def refresh(
    dataset: str, store: Path | None = None, catalog: Path | None = None, workers: int | None = None,
    scheduler: str | None = None, worker_memory: str | None = None, limit: int | None = None,
    retry_failed: bool = False, wait_s: float = 0.0, train: bool = False, is_quiet: bool = True,
) -> State[RefreshOutcome]:  # fmt: skip
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
        train: Start training if the snapshot passes the gate (see `training` in datasets.yaml).
        is_quiet: No progress bars on the terminal.

    Returns:
        Completed, named 'Done', 'Partial' or 'Unchanged', with a RefreshOutcome.
    """
    folder = (store or default_store(dataset)).absolute()
    options = RefreshOptions(
        dataset=dataset, store=folder, catalog=catalog, workers=workers, scheduler=scheduler,
        worker_memory=worker_memory, limit=limit, retry_failed=retry_failed, wait_s=wait_s, is_quiet=is_quiet,
    )  # fmt: skip
    try:
        answer = run_dag(take_run(options), train)
    except Exception as error:
        failure_artifact(options, error)
        raise
    kept, expected = (answer.counts["clips"][name] for name in ("kept", "expected"))
    message = f"snapshot {answer.number} ({answer.id[:12]}): {kept} of {expected} clips"
    return Completed(name=answer.status.capitalize(), message=message, data=answer)


def run_dag(run: Run, train: bool) -> RefreshOutcome:
    """One refresh, inside a Prefect run or without one; the store is unlocked before training may start."""
    with run:
        run.progress.watch(ProgressArtifact(run.dataset.name))
        snapshot, is_new, num_steps = (run.unchanged, False, 0) if run.unchanged else renew(run)
    answer = outcome(snapshot, is_new, num_steps)
    if train:
        answer = replace(answer, training=hand_off(snapshot, run.dataset, run.options))
    publish_artifacts(snapshot, answer)
    return answer


def renew(run: Run) -> tuple[Snapshot, bool, int]:
    """Plan, compute, publish, report; the latest snapshot, whether it is new, and how many steps were computed."""
    store = run.options.store
    bind_store(store, run.dataset.name)
    work = plan_work(run)
    computed = compute(run, work.shards)
    with run.progress.step("publish", "snapshot"):
        found = RefreshResults(work.inventory, work.plan, computed.results, computed.failed, run.skipped)
        snapshot, is_new = publish_snapshot(run.dataset, store, found, code_version())
    with run.progress.step("report", "page"):
        folder = report_folder(store, snapshot.body.number)
        if is_new or not (folder / "index.html").exists():
            write_report(snapshot, folder)
    remember_fingerprint(store, run.dataset, work.inventory, snapshot, is_complete=not failed_sources(snapshot))
    return snapshot, is_new, computed.num_new
