"""A cluster that cannot do the work says so instead of waiting forever."""

import time
from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster

from flows.execution import workers
from flows.execution.workers import require_workers, wait_for_one
from storage.errors import PreflightError, ServiceLost


@pytest.fixture
def local() -> Iterator[LocalCluster]:
    """A scheduler without workers; processes=False keeps everything in this process."""
    with LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0"
    ) as made:
        yield made


@pytest.fixture
def client(local: LocalCluster) -> Iterator[Client]:
    with Client(local) as made:
        yield made


def test_no_worker_at_all(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_WORKER_S", 0.5)
    with pytest.raises(ServiceLost, match="has no worker"):
        require_workers(client, {})


def test_a_wish_that_nobody_grants_is_named(local: LocalCluster, client: Client) -> None:
    local.scale(1)
    require_workers(client, {})
    with pytest.raises(
        PreflightError, match='no worker offers what cut asks for: start one with `dask worker --resources "GPU=1"`'
    ):
        require_workers(client, {"cut": {"GPU": 1}})


def test_workers_that_leave_and_do_not_come_back(
    local: LocalCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_LOOK_S", 0.2)
    monkeypatch.setattr(workers, "NO_WORKERS_S", 1.0)
    future = client.submit(time.sleep, 0)  # no worker ever takes it
    with pytest.raises(ServiceLost, match="no worker for 1 s"):
        wait_for_one(client, [future])


def test_workers_that_come_back_in_time(local: LocalCluster, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_LOOK_S", 0.2)
    monkeypatch.setattr(workers, "NO_WORKERS_S", 60.0)
    future, never = client.submit(sum, [1, 2]), client.submit(time.sleep, 0, resources={"NOBODY": 1})
    client.loop.call_later(0.6, local.scale, 1)
    assert wait_for_one(client, [future, never]) == {future}
    assert future.result() == 3
