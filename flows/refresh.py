"""THE DAG: inventory -> plan -> per shard (cut -> extractors) -> publish -> report."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect import flow, get_run_logger

from flows import steps
from flows.fingerprint import remember_fingerprint
from flows.stock import RefreshOptions, Run, open_run, take_stock
from flows.version import code_version
from storage.errors import OutOfSpace, error_text
from storage.records import Shard, Source, State, StepResult
from storage.snapshot import Snapshot
from tasks import features
from tasks.pending import ShardWork, subject_groups
from tasks.publish import ShardResults, publish_snapshot
from tasks.report import write_report

_IN_FLIGHT_PER_WORKER = 4


@flow(name="refresh", flow_run_name="refresh-{options.dataset}", persist_result=False, validate_parameters=False)
def refresh(options: RefreshOptions) -> dict[str, Any]:
    """Brings the store up to date with the raw files and publishes a snapshot if anything changed.

    Returns:
        status ('done', 'partial' or 'unchanged'), snapshot number and id, counts, number of steps computed.
    """
    with open_run(options) as run:
        inventory, plan, work = take_stock(run)
        _compute(run, work)
        with run.progress.step("publish", "snapshot"):
            snapshot, is_new = publish_snapshot(
                run.dataset, options.store, inventory, plan, run.results, run.failed, run.skipped, code_version()
            )
        with run.progress.step("report", "page"):
            report_folder = options.store / "reports" / f"{snapshot.body.number:06d}"
            if is_new or not (report_folder / "index.html").exists():
                write_report(snapshot, report_folder)
        remember_fingerprint(options.store, run.dataset, inventory, snapshot, is_complete=not _failed(snapshot))
        return _outcome(run, snapshot, is_new)


def _compute(run: Run, work: Sequence[ShardWork]) -> None:
    """Computes what is missing; a shard that breaks is taken apart, so that one bad source costs only itself."""
    todo = [item for item in work if _is_missing(run, item)]
    run.results += [_finished(run, item) for item in work if not _is_missing(run, item)]
    run.progress.start("cut", sum(len(item.sources) for item in todo), "sources")
    run.progress.start("extract", len(todo) * len(run.params), "tables")
    _run_shards(run, todo)
    # A worker that died takes steps of other shards with it: each broken shard once more, then its sources, all of
    # them alone, so that nobody is blamed for a neighbour.
    again, run.broken = run.broken, []
    _run_shards(run, again, in_flight_limit=1)
    singles = [_single(item, source) for item in run.broken for source in item.sources]
    run.broken = []
    _run_shards(run, singles, in_flight_limit=1)
    run.progress.close()


def _is_missing(run: Run, item: ShardWork) -> bool:
    return item.cut is None or len(item.features) < len(run.params)


def _finished(run: Run, item: ShardWork) -> ShardResults:
    assert item.cut is not None
    return ShardResults(item.shard, item.members, item.cut, item.features)


def _single(item: ShardWork, source: Source) -> ShardWork:
    shard = Shard.of((source.source_id,), item.shard.minutes / max(1, len(item.sources)))
    return ShardWork(shard, (source.member(),), (source,))


def _run_shards(run: Run, todo: Iterable[ShardWork], in_flight_limit: int | None = None) -> None:
    """Submits shards, at most a few per worker at a time, and collects them in order."""
    limit = in_flight_limit or _IN_FLIGHT_PER_WORKER * run.options.workers
    in_flight: deque[tuple[ShardWork, dict[str, Any]]] = deque()
    for item in todo:
        in_flight.append((item, _submit(run, item)))
        if len(in_flight) >= limit:
            _collect(run, *in_flight.popleft())
    while in_flight:
        _collect(run, *in_flight.popleft())


def _submit(run: Run, item: ShardWork) -> dict[str, Any]:
    """Submits the missing steps of one shard; returns step -> future or result, in the order of the DAG."""
    store = str(run.options.store.absolute())
    shard_id = item.shard.shard_id
    cut: Any = item.cut or steps.cut.submit(shard_id, item.sources, run.dataset, store)
    handles: dict[str, Any] = {"cut": cut}
    subjects = dict(zip(item.shard.source_ids, subject_groups(item.members), strict=True))
    for name in run.params:
        needs = {need: handles[need] for need in features.discover()[name].REQUIRES}
        handles[name] = item.features.get(name) or steps.extract.submit(
            name, shard_id, cut, needs, run.dataset, store, subjects
        )
    return handles


def _collect(run: Run, item: ShardWork, handles: Mapping[str, Any]) -> None:
    """Waits for one shard. An error of any step breaks the shard; a single source that breaks is failed."""
    done: dict[str, StepResult] = {}
    error: Exception | None = None
    for step, handle in handles.items():
        try:
            done[step] = handle if isinstance(handle, StepResult) else handle.result()
            run.num_new += done[step].is_new
        except OutOfSpace:
            raise
        except Exception as problem:
            error = error or problem
        _advance(run, step, item)
    if error is None:
        _keep(run, item, done)
    elif len(item.sources) == 1:
        get_run_logger().error("source %s failed", item.sources[0].path, exc_info=error)
        run.failed[item.sources[0].source_id] = error_text(error)
    else:
        get_run_logger().warning("shard %s broke (%s); its sources are tried one by one", item.shard.shard_id, error)
        run.broken.append(item)


def _keep(run: Run, item: ShardWork, done: dict[str, StepResult]) -> None:
    cut = done.pop("cut")
    run.failed |= cut.failed
    if cut.key:
        members = tuple(member for member in item.members if member.source_id in cut.source_ids)
        is_whole = len(members) == len(item.members)
        shard = item.shard if is_whole else Shard.of(cut.source_ids, item.shard.minutes)
        run.results.append(ShardResults(shard, members, cut, done))


def _advance(run: Run, step: str, item: ShardWork) -> None:
    if step == "cut":
        run.progress.add("cut", len(item.sources))
    else:
        run.progress.add("extract", 1, step)


def _failed(snapshot: Snapshot) -> dict[str, str]:
    """Path -> error of every failed source, also of those that could not even be read for the inventory."""
    return {row["path"]: row["detail"] for row in snapshot.source_table.to_pylist() if row["state"] == State.FAILED}


def _outcome(run: Run, snapshot: Snapshot, is_new: bool) -> dict[str, Any]:
    failed = _failed(snapshot)
    status = "partial" if failed else ("done" if is_new else "unchanged")
    return {
        "status": status, "dataset": run.dataset.name, "store": str(run.options.store), "number": snapshot.body.number,
        "id": snapshot.id, "is_new": is_new, "steps_computed": run.num_new, "counts": snapshot.body.counts,
        "splits": snapshot.body.splits, "skipped_features": dict(run.skipped), "failed": failed,
    }  # fmt: skip
