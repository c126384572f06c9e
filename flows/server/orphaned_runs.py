"""Flow runs of this host when its workers go down: stop those that run, mark orphaned ones as crashed."""

import os
import signal
import socket
import time

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed


def stop_runs(pools: list[str], grace_s: float) -> None:
    """Starts no new runs; those of this host get SIGTERM and `grace_s` to end (a training writes its checkpoint).

    Args:
        pools: work pools, paused by this; flows.server.deployments resumes them.
        grace_s: afterwards runs are left to their workers, which kill them.
    """
    with get_client(sync_client=True) as client:
        for pool in pools:
            client.update_work_pool(pool, WorkPoolUpdate(is_paused=True))
    pids = [pid for _, pid in runs_here() if pid and psutil.pid_exists(pid)]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.2)


def close_orphaned_runs() -> list[str]:
    """Marks runs of this host as crashed that are 'Running' on the server, but whose process is gone.

    Returns:
        Their names.
    """
    orphans = [run for run, pid in runs_here() if pid and not psutil.pid_exists(pid)]
    with get_client(sync_client=True) as client:
        for run in orphans:
            client.set_flow_run_state(run.id, Crashed(message="its process ended; run it again"), force=True)
    return [run.name for run in orphans]


def runs_here() -> list[tuple[FlowRun, int]]:
    """Every run that is 'Running' or 'Cancelling' on this host, and its process id, 0 when that is unknown."""
    kinds = filters.FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=kinds))
        )
    runs = []
    for run in found:
        host, _, pid = (run.infrastructure_pid or "").rpartition(":")
        if host == socket.gethostname():
            runs.append((run, int(pid) if pid.isdecimal() else 0))
    return runs
