"""Checks that the cluster has workers, keeps them, and that they offer the resources that steps ask for."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from distributed import Client, Future, wait

from storage.errors import PreflightError, ServiceLost

# A cluster may still be starting, or be growing back; without any worker for longer than this a run gives up. Workers
# that are there but busy are no reason to.
FIRST_WORKER_S = 120.0
NO_WORKERS_S = 300.0
_LOOK_S = 10.0


def require_workers(client: Client, resources: Mapping[str, Mapping[str, float]]) -> None:
    """Waits for a first worker.

    Args:
        client: the cluster's client.
        resources: step -> what it asks of a worker.

    Raises:
        ServiceLost: no worker came.
        PreflightError: no worker offers what a step asks for; it would wait forever.
    """
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER_S)
    except TimeoutError:
        raise ServiceLost(
            f"the Dask scheduler {client.scheduler and client.scheduler.address} has no worker; start one with "
            "`dask worker ADDRESS --nthreads 1`"
        ) from None
    info: Any = client.scheduler_info(n_workers=-1)
    offers = [worker["resources"] for worker in info["workers"].values()]
    for step, wanted in resources.items():
        if not any(all(offer.get(name, 0) >= amount for name, amount in wanted.items()) for offer in offers):
            flags = " ".join(f"{name}={amount:g}" for name, amount in wanted.items())
            raise PreflightError(
                f'no worker offers what {step} asks for: start one with `dask worker --resources "{flags}"`'
            )


def wait_for_one(client: Client, futures: Sequence[Future]) -> Collection[Future]:
    """Waits until one of the futures is done; returns all that are.

    Raises:
        ServiceLost: all workers are gone and none came back.
    """
    alone_since: float | None = None
    while True:
        try:
            outcome: Any = wait(list(futures), timeout=_LOOK_S, return_when="FIRST_COMPLETED")
            return outcome.done
        except TimeoutError:
            workers: Any = client.nthreads()
            alone_since = None if workers else (alone_since or time.monotonic())
        if alone_since and time.monotonic() - alone_since > NO_WORKERS_S:
            raise ServiceLost(f"the Dask cluster has had no worker for {NO_WORKERS_S:.0f} s; refresh again when it has")
