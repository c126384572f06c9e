"""The fan-out: one task per (step, shard) on the cluster, a bounded number of shards at a time, breakage isolated."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from distributed import CancelledError, Client, Future
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker, NoWorkerError

from flows.execution import steps
from flows.execution.dask_cluster import Runner, make_runner
from flows.execution.placement import placement
from flows.execution.workers import require_workers, wait_for_one
from flows.pipeline.prepare import Run
from flows.reporting.artifacts import close_lost_task_run
from flows.reporting.logs import run_logger
from storage.errors import OutOfSpace, ServiceLost, error_text
from storage.records import Shard, ShardResults, Source, StepResult
from tasks import features
from tasks.shard_work import ShardWork, subject_groups

# Enough that no worker waits for the driver, few enough that memory does not grow with the dataset.
_SHARDS_PER_WORKER = 4


def compute(run: Run, work: Sequence[ShardWork]) -> None:
    """Computes what is missing; a shard that breaks is taken apart, so that one bad source costs only itself.

    Fills results, failed and num_new of the run.

    Raises:
        OutOfSpace: the store's disk is full.
        ServiceLost: the scheduler, or every worker, is gone.
    """
    todo = [item for item in work if _is_missing(run, item)]
    run.results += [_finished(item) for item in work if not _is_missing(run, item)]
    if not todo:
        return
    run.progress.start("cut", sum(len(item.sources) for item in todo if item.cut is None), "sources")
    run.progress.start("extract", sum(len(run.params) - len(item.features) for item in todo), "tables")
    options = run.options
    try:
        with make_runner(options) as runner, runner.client.as_current():
            require_workers(runner.client, run.dataset.resources if options.scheduler else {})
            _compute_all(run, runner, todo)
    except (NoWorkerError, CancelledError, ClosedClientError, OSError) as error:
        where = options.scheduler or "on this machine"
        raise ServiceLost(
            f"the Dask cluster {where} is gone ({error_text(error)}); what was committed is kept: "
            "start it and refresh again"
        ) from error
    run.progress.close()


def _compute_all(run: Run, runner: Runner, todo: Sequence[ShardWork]) -> None:
    _run_shards(run, runner, todo)
    # A worker that died takes steps of other shards with it: each broken shard once more, then its sources, all of
    # them alone, so that nobody is blamed for a neighbour.
    again, run.broken = run.broken, []
    _run_shards(run, runner, again, in_flight_limit=1)
    singles = [_single(item, source) for item in run.broken for source in item.sources]
    run.broken = []
    _run_shards(run, runner, singles, in_flight_limit=1)


def _is_missing(run: Run, item: ShardWork) -> bool:
    return item.cut is None or len(item.features) < len(run.params)


def _finished(item: ShardWork) -> ShardResults:
    assert item.cut is not None
    return ShardResults(item.shard, item.members, item.cut, item.features)


def _single(item: ShardWork, source: Source) -> ShardWork:
    shard = Shard.of((source.source_id,), item.shard.minutes / max(1, len(item.sources)))
    return ShardWork(shard, (source.member(),), (source,))


def _run_shards(run: Run, runner: Runner, todo: Iterable[ShardWork], in_flight_limit: int | None = None) -> None:
    """Submits shards, at most a few per worker at a time, and collects them in order."""
    in_flight: deque[tuple[ShardWork, dict[str, Any]]] = deque()
    waiting: dict[Future, tuple[ShardWork, str]] = {}

    def collect_first() -> None:
        item, handles = in_flight.popleft()
        _watch(run, runner.client, waiting, [_dask_future(handle) for handle in handles.values()])
        _collect(run, item, handles, is_alone=in_flight_limit == 1)

    for item in todo:
        handles = _submit(run, runner, item)
        in_flight.append((item, handles))
        waiting |= {_dask_future(handle): (item, step) for step, handle in handles.items() if _dask_future(handle)}
        while len(in_flight) >= (in_flight_limit or _in_flight_limit(runner.client)):
            collect_first()
    while in_flight:
        collect_first()


def _watch(run: Run, client: Client, waiting: dict[Any, tuple[ShardWork, str]], until: Sequence[Any]) -> None:
    """Waits for one shard and meanwhile counts whatever step of any shard is done, so that progress is seen to move."""
    while any(future in waiting for future in until):
        for future in wait_for_one(client, list(waiting)):
            item, step = waiting.pop(future)
            if step == "cut":
                run.progress.add("cut", len(item.sources))
            else:
                run.progress.add("extract", 1, step)


def _dask_future(handle: Any) -> Any:
    """The Dask future behind a handle; None for a result that was there already."""
    return None if isinstance(handle, StepResult) else getattr(handle, "wrapped_future", handle)


def _in_flight_limit(client: Client) -> int:
    """Shards to keep in flight with the workers there are now; a cluster may grow and shrink meanwhile."""
    workers: Any = client.nthreads()
    return _SHARDS_PER_WORKER * max(1, len(workers))


def _submit(run: Run, runner: Runner, item: ShardWork) -> dict[str, Any]:
    """Submits the missing steps of one shard; returns step -> future or result, in the order of the DAG."""
    store = str(run.options.store.absolute())
    shard_id = item.shard.shard_id
    with _placed(run, "cut"):
        cut: Any = item.cut or runner.submit(
            steps.cut, {"shard_id": shard_id, "sources": item.sources, "dataset": run.dataset, "store": store}
        )
    handles: dict[str, Any] = {"cut": cut}
    subjects = dict(zip(item.shard.source_ids, subject_groups(item.members), strict=True))
    for name in run.params:
        needs = {need: handles[need] for need in features.discover()[name].REQUIRES}
        parameters = {"name": name, "shard_id": shard_id, "cut_result": cut, "needs": needs, "dataset": run.dataset,
                      "store": store, "subjects": subjects}  # fmt: skip
        with _placed(run, name):
            handles[name] = item.features.get(name) or runner.submit(steps.extract, parameters)
    return handles


def _placed(run: Run, step: str) -> AbstractContextManager[None]:
    """A local cluster has what this machine has; only on another one do workers differ in what they offer."""
    return placement(step, run.dataset.resources.get(step) if run.options.scheduler else None)


def _collect(run: Run, item: ShardWork, handles: Mapping[str, Any], is_alone: bool) -> None:
    """Waits for one shard. An error of any step breaks the shard; a single source that breaks is failed.

    Not yet where its worker died while other shards were in flight: then any of them may have killed it.
    """
    done: dict[str, StepResult] = {}
    error: Exception | None = None
    for step, handle in handles.items():
        try:
            done[step] = handle if isinstance(handle, StepResult) else handle.result()
            run.num_new += done[step].is_new
        except (OutOfSpace, NoWorkerError, CommClosedError, CancelledError):
            raise
        except Exception as problem:
            error = error or problem
            if isinstance(problem, KilledWorker):
                close_lost_task_run(handle, problem)
    if error is None:
        _keep(run, item, done)
    elif len(item.sources) == 1 and (is_alone or not isinstance(error, KilledWorker)):
        run_logger().error("source %s failed", item.sources[0].path, exc_info=error)
        run.failed[item.sources[0].source_id] = error_text(error)
    else:
        run_logger().warning("shard %s broke (%s); it is tried alone", item.shard.shard_id, error)
        run.broken.append(item)


def _keep(run: Run, item: ShardWork, done: dict[str, StepResult]) -> None:
    cut = done.pop("cut")
    run.failed |= cut.failed
    if cut.key:
        members = tuple(member for member in item.members if member.source_id in cut.source_ids)
        is_whole = len(members) == len(item.members)
        shard = item.shard if is_whole else Shard.of(cut.source_ids, item.shard.minutes)
        # Each came through the network with its own copy of the list; a large dataset has many steps.
        shared = {step: replace(result, source_ids=cut.source_ids) for step, result in done.items()}
        run.results.append(ShardResults(shard, members, cut, shared))
