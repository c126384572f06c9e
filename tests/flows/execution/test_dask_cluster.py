"""The local cluster: workers that die come back, however often."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client

from flows.execution.dask_cluster import make_runner
from flows.refresh_options import RefreshOptions


@pytest.fixture
def _hasty() -> Iterator[None]:
    """Dask's own settings, with the wait for a lost worker shorter than a worker's start."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):  # pyright: ignore[reportPrivateImportUsage]
        yield


@pytest.mark.usefixtures("_hasty")
def test_worker_that_is_down_for_long_comes_back(tmp_path: Path) -> None:
    """Found as a refresh without a worker: it died again and again, and was down when Dask looked for it."""
    options = RefreshOptions(dataset="any", store=tmp_path, workers=1, has_server=False)
    with make_runner(options) as runner:
        pid = _pid(runner.client)
        os.kill(pid, signal.SIGKILL)
        _wait_for_another(runner.client, pid)


def _pid(client: Client) -> int:
    return client.submit(os.getpid, pure=False).result(timeout=60)


def _wait_for_another(client: Client, pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if client.nthreads() and _pid(client) != pid:
            return
        time.sleep(0.1)
    raise AssertionError("the worker was not started anew")
