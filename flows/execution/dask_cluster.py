"""Where the work runs: a local cluster of single-threaded processes on loopback, or any Dask scheduler by address."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import dask
from distributed import Client, Future, LocalCluster
from prefect import Task
from prefect_dask.task_runners import DaskTaskRunner

from flows.refresh_options import RefreshOptions

# One thread per process: Dask runs as many processes as there are cores to use.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip

# Cuts are the longest steps and everything waits for them: started first, the short extractors are left to fill the
# end, when there is no longer a whole shard for every worker.
_CUT_PRIORITY = 1

# Read by a scheduler in this process, so that it holds for local clusters; another scheduler has its own settings.
_SCHEDULER = {
    # A task is given up after its second worker has died: a shard that breaks is tried again, alone, in any case.
    "distributed.scheduler.allowed-failures": 1,
    # Every connection keeps its last messages for a look at them, 1,000 by default, with all arguments of our tasks:
    # that grows the driver by 160 KB per step.
    "distributed.admin.low-level-log-length": 10,
    # A local worker that died is always started anew. A local cluster drops for good one that is not there so long
    # after a death: 15 s by default, and it may be gone because it has just died again.
    "distributed.deploy.lost-worker-timeout": "365 days",
}


class Runner(Protocol):
    """Takes steps; the cluster is up between entering and leaving it."""

    @property
    def client(self) -> Client:
        """The cluster's client."""
        ...

    def submit(self, task: Task[Any, Any], parameters: dict[str, Any]) -> Any:
        """Submits a step; returns its future, which has `result()`."""
        ...


def make_runner(options: RefreshOptions) -> AbstractContextManager[Runner]:
    """A task runner; entering it starts the local cluster, or connects to the scheduler of the options."""
    dask.config.set(_SCHEDULER)  # pyright: ignore[reportPrivateImportUsage]
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    if not options.has_server:
        return _plain_runner(options)
    if options.scheduler:
        return DaskTaskRunner(address=options.scheduler)
    return DaskTaskRunner(cluster_class="distributed.LocalCluster", cluster_kwargs=_local_cluster(options))


def _local_cluster(options: RefreshOptions) -> dict[str, Any]:
    """Processes of one thread each, every socket on loopback."""
    return {
        "n_workers": options.workers or os.cpu_count() or 1,
        "threads_per_worker": 1,
        "processes": True,
        "host": "127.0.0.1",
        "memory_limit": options.worker_memory or "auto",
        "dashboard_address": "127.0.0.1:0",
        "worker_dashboard_address": "127.0.0.1:0",
        "silence_logs": 40,
    }


@dataclass(frozen=True, slots=True)
class PlainRunner:
    """Steps straight on Dask, without Prefect."""

    client: Client

    def submit(self, task: Task[Any, Any], parameters: dict[str, Any]) -> Future:
        """A Dask future of the step's own function."""
        return self.client.submit(task.fn, **parameters, pure=False)


@contextmanager
def _plain_runner(options: RefreshOptions) -> Iterator[PlainRunner]:
    with ExitStack() as stack:
        where: Any = options.scheduler or stack.enter_context(LocalCluster(**_local_cluster(options)))
        yield PlainRunner(stack.enter_context(Client(where)))


@contextmanager
def placement(step: str, resources: Mapping[str, float] | None = None) -> Iterator[None]:
    """Places the tasks submitted inside the block: which workers may take them, and what goes first.

    Args:
        step: 'cut', or an extractor's name.
        resources: what a worker must have been started with, such as {"GPU": 1}; None is any worker.
    """
    annotations: dict[str, object] = {"priority": _CUT_PRIORITY if step == "cut" else 0}
    if resources:
        annotations["resources"] = dict(resources)
    with dask.annotate(**annotations):  # pyright: ignore[reportPrivateImportUsage]
        yield
