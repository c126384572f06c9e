"""Where the work runs: a local cluster of single-threaded processes on loopback, or any Dask scheduler by address."""

import os

from prefect_dask.task_runners import DaskTaskRunner

from flows.steps import THREAD_VARIABLES

# Without workers a scheduler would wait forever; with this it gives up and the run ends with a message.
_NO_WORKERS_TIMEOUT = "300s"

# A task is given up after its second worker has died: a shard that breaks is tried again, alone, in any case.
_ALLOWED_FAILURES = "1"


def make_runner(workers: int | None = None, scheduler: str | None = None) -> DaskTaskRunner:
    """A task runner.

    Args:
        workers: processes of a local cluster; None is one per core.
        scheduler: address of a running scheduler (tcp:// or tls://) to use instead.
    """
    os.environ.setdefault("DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT", _NO_WORKERS_TIMEOUT)
    os.environ.setdefault("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", _ALLOWED_FAILURES)
    if scheduler:
        return DaskTaskRunner(address=scheduler)
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    return DaskTaskRunner(
        cluster_class="distributed.LocalCluster",
        cluster_kwargs={
            "n_workers": workers or os.cpu_count() or 1,
            "threads_per_worker": 1,
            "processes": True,
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
            "worker_dashboard_address": "127.0.0.1:0",
            "silence_logs": 40,
        },
    )
