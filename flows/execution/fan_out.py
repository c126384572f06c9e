"""The fan-out: one task per (step, shard) on the cluster, a bounded number of shards at a time, breakage isolated."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distributed import CancelledError, Future
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker, NoWorkerError

from flows.execution import steps
from flows.execution.dask_cluster import Runner, make_runner, placement
from flows.execution.workers import require_workers, wait_for_one
from flows.pipeline.prepare import Run
from flows.reporting.artifacts import close_lost_task_run
from flows.reporting.logs import run_logger
from storage.errors import OutOfSpace, ServiceLost, error_text
from storage.records import Shard, ShardResults, Source, StepResult
from tasks import features
from tasks.shard_work import ShardWork, subject_groups

# The result of a step that is in the store already, or the future of one that is computed: Dask's, or Prefect's.
Handle = StepResult | Future | Any

# Enough that no worker waits for the driver, few enough that memory does not grow with the dataset.
_SHARDS_PER_WORKER = 4


@dataclass(slots=True)
class Computed:
    """What is there after the fan-out.

    Attributes:
        results: every shard that holds something, without its failed sources.
        failed: source id -> error.
        num_new: steps that were computed and not found in the store.
    """

    results: list[ShardResults] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    num_new: int = 0


def compute(run: Run, work: Sequence[ShardWork]) -> Computed:
    """Computes what is missing; a shard that breaks is taken apart, so that one bad source costs only itself.

    Raises:
        OutOfSpace: the store's disk is full.
        ServiceLost: the scheduler, or every worker, is gone.
    """
    computed, todo, options = Computed(), list[ShardWork](), run.options
    for item in work:
        if item.cut is None or len(item.features) < len(run.params):
            todo.append(item)
        else:
            computed.results.append(ShardResults(item.shard, item.members, item.cut, item.features))
    if not todo:
        return computed
    run.progress.start("cut", sum(len(item.sources) for item in todo if item.cut is None), "sources")
    run.progress.start("extract", sum(len(run.params) - len(item.features) for item in todo), "tables")
    try:
        with make_runner(options) as runner, runner.client.as_current():
            require_workers(runner.client, run.dataset.resources if options.scheduler else {})
            FanOut(run, runner, computed).compute_all(todo)
    except (NoWorkerError, CancelledError, ClosedClientError, OSError) as error:
        where = options.scheduler or "on this machine"
        raise ServiceLost(
            f"the Dask cluster {where} is gone ({error_text(error)}); what was committed is kept: "
            "start it and refresh again"
        ) from error
    run.progress.close()
    return computed


def single_source(item: ShardWork, source: Source) -> ShardWork:
    """A shard of one source of a shard; nothing of it is in the store."""
    shard = Shard.of((source.source_id,), item.shard.minutes / max(1, len(item.sources)))
    return ShardWork(shard, (source.member(),), (source,))


@dataclass(slots=True)
class FanOut:
    """Shards on their way through the cluster.

    Attributes:
        run: which refresh.
        runner: takes the steps.
        computed: filled shard by shard.
        waiting: Dask future -> shard and step, of every step that is not done.
    """

    run: Run
    runner: Runner
    computed: Computed
    waiting: dict[Future, tuple[ShardWork, str]] = field(default_factory=dict)

    def compute_all(self, todo: Iterable[ShardWork]) -> None:
        """Takes every shard to its end: it is in the results, or its sources have failed one by one.

        A worker that dies takes steps of other shards with it. So each broken shard is tried once more and then source
        by source, with nothing beside it: a crash is attributed to the source that caused it.
        """
        broken = self.compute_shards(todo)
        broken = self.compute_shards(broken, in_flight_limit=1)
        self.compute_shards([single_source(item, source) for item in broken for source in item.sources], 1)

    def compute_shards(self, todo: Iterable[ShardWork], in_flight_limit: int | None = None) -> list[ShardWork]:
        """Submits shards, at most a few per worker at a time, and collects them in order; returns the broken ones."""
        in_flight: deque[tuple[ShardWork, dict[str, Any]]] = deque()
        broken: list[ShardWork] = []

        def collect_first() -> None:
            item, handles = in_flight.popleft()
            self.watch(item)
            if not self.collect(item, handles, is_alone=in_flight_limit == 1):
                broken.append(item)

        for item in todo:
            in_flight.append((item, self.submit(item)))
            while len(in_flight) >= (in_flight_limit or self.in_flight_limit()):
                collect_first()
        while in_flight:
            collect_first()
        return broken

    def in_flight_limit(self) -> int:
        """Shards to keep in flight with the workers there are now; a cluster may grow and shrink meanwhile."""
        workers: Any = self.runner.client.nthreads()
        return _SHARDS_PER_WORKER * max(1, len(workers))

    def submit(self, item: ShardWork) -> dict[str, Handle]:
        """Submits the missing steps of one shard; returns step -> future or result, in the order of the DAG."""
        run, shard_id, store = self.run, item.shard.shard_id, str(self.run.options.store.absolute())
        # A local cluster has what this machine has; only on another one do workers differ in what they offer.
        resources = run.dataset.resources if run.options.scheduler else {}
        with placement("cut", resources.get("cut")):
            cut: Any = item.cut or self.runner.submit(
                steps.cut, {"shard_id": shard_id, "sources": item.sources, "dataset": run.dataset, "store": store}
            )
        handles: dict[str, Handle] = {"cut": cut}
        subjects = dict(zip(item.shard.source_ids, subject_groups(item.members), strict=True))
        for name in run.params:
            needs = {need: handles[need] for need in features.discover()[name].REQUIRES}
            parameters = {"name": name, "shard_id": shard_id, "cut_result": cut, "needs": needs, "dataset": run.dataset,
                          "store": store, "subjects": subjects}  # fmt: skip
            with placement(name, resources.get(name)):
                handles[name] = item.features.get(name) or self.runner.submit(steps.extract, parameters)
        for step, handle in handles.items():
            if not isinstance(handle, StepResult):
                # Prefect's futures wrap those of Dask.
                self.waiting[getattr(handle, "wrapped_future", handle)] = (item, step)
        return handles

    def watch(self, until: ShardWork) -> None:
        """Waits for one shard; meanwhile every step that is done, of any shard, moves the progress bars."""
        while any(item is until for item, _ in self.waiting.values()):
            for future in wait_for_one(self.runner.client, list(self.waiting)):
                item, step = self.waiting.pop(future)
                if step == "cut":
                    self.run.progress.add("cut", len(item.sources))
                else:
                    self.run.progress.add("extract", 1, step)

    def collect(self, item: ShardWork, handles: Mapping[str, Handle], is_alone: bool) -> bool:
        """Waits for one shard and keeps what it gives; False when it broke and is to be tried again.

        An error of any step breaks the shard. A single source that breaks has failed, unless its worker died while
        other shards were in flight: any of them may have killed it.
        """
        done: dict[str, StepResult] = {}
        error: Exception | None = None
        for step, handle in handles.items():
            try:
                done[step] = handle if isinstance(handle, StepResult) else handle.result()
                self.computed.num_new += done[step].is_new
            except (OutOfSpace, NoWorkerError, CommClosedError, CancelledError):
                raise
            except Exception as problem:
                error = error or problem
                if isinstance(problem, KilledWorker):
                    close_lost_task_run(handle, problem)
        if error is None:
            self.keep(item, done)
            return True
        if len(item.sources) == 1 and (is_alone or not isinstance(error, KilledWorker)):
            run_logger().error("source %s failed", item.sources[0].path, exc_info=error)
            self.computed.failed[item.sources[0].source_id] = error_text(error)
            return True
        run_logger().warning("shard %s broke (%s); it is tried alone", item.shard.shard_id, error)
        return False

    def keep(self, item: ShardWork, done: dict[str, StepResult]) -> None:
        """Adds a finished shard to the results, without the sources that its cut could not read."""
        cut = done.pop("cut")
        self.computed.failed |= cut.failed
        if cut.key:
            members = tuple(member for member in item.members if member.source_id in cut.source_ids)
            is_whole = len(members) == len(item.members)
            shard = item.shard if is_whole else Shard.of(cut.source_ids, item.shard.minutes)
            # Each came over the network with its own copy of the list; a large dataset has many steps.
            shared = {step: replace(result, source_ids=cut.source_ids) for step, result in done.items()}
            self.computed.results.append(ShardResults(shard, members, cut, shared))
