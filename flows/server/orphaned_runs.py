"""Flow runs of this machine when its workers go down: stopped in order, and closed where nobody is left to do it."""

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
    """No new runs; those that run here get SIGTERM and `grace_s` to end (a training writes its checkpoint).

    Args:
        pools: work pools, paused by this; flows.server.deployments resumes them.
        grace_s: after it they are left to their workers, which kill them.
    """
    with get_client(sync_client=True) as client:
        for pool in pools:
            client.update_work_pool(pool, WorkPoolUpdate(is_paused=True))
    pids = [pid for run in _runs_here() if (pid := _pid(run)) and psutil.pid_exists(pid)]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.2)


def close_stranded_runs() -> list[str]:
    """Marks runs of this host that the server still takes for running, but whose process is gone; their names."""
    named = []
    with get_client(sync_client=True) as client:
        for run in _runs_here():
            pid = _pid(run)
            if pid and not psutil.pid_exists(pid):
                client.set_flow_run_state(run.id, Crashed(message="its process ended; run it again"), force=True)
                named.append(run.name)
    return named


def _runs_here() -> list[FlowRun]:
    kinds = filters.FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=kinds))
        )
    return [run for run in found if (run.infrastructure_pid or "").startswith(f"{socket.gethostname()}:")]


def _pid(run: FlowRun) -> int:
    """Of the run's process; 0 when it cannot be told."""
    number = (run.infrastructure_pid or "").rpartition(":")[2]
    return int(number) if number.isdecimal() else 0
