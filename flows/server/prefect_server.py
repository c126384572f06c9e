"""A Prefect server on loopback, sized for bursts of task runs: for one refresh, or for `talkset serve`."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from flows.server.processes import start, stop
from storage.errors import PreflightError
from storage.files import make_dir

_START_TIMEOUT_S = 120.0
LOOPBACK = "127.0.0.1"

# Work pools that deployments, workers and flows agree on.
CPU_POOL = "cpu"
GPU_POOL = "gpu"
# A global concurrency limit with as many slots as there are GPUs.
GPU_LIMIT = "gpu"

# Nothing is sent outside; bursts of task runs lose no record (the defaults of 1 per batch do); old runs are cleared
# away after 30 days; a flow's heartbeat distinguishes a killed run from a slow one (see flows.server.deployments).
ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DASK_LOGGING__DISTRIBUTED": "error",
    "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_API_HOST": LOOPBACK,
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 24 * 3600),
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # What a failed run leaves on the disk is JSON; the default is a pickle.
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}


def set_defaults() -> None:
    """Sets what ENVIRONMENT holds and the environment does not; before prefect is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The API URL to use: PREFECT_API_URL when it is set, else of a server started here and stopped at the end.

    Sets the environment for this process and its children; import prefect only inside the block, it reads its
    settings when imported.

    Args:
        home: folder for the server's database and log; it is kept, so that the next start is quick.

    Raises:
        PreflightError: the server of PREFECT_API_URL does not answer, or the own one did not come up; the log is named.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        try:
            with urllib.request.urlopen(f"{given}/health", timeout=10):
                pass
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise PreflightError(
                f"PREFECT_API_URL is {given}, which does not answer ({reason}); start it or unset it"
            ) from None
        yield given
        return
    # Nothing starts it again when it dies: long retries (a minute for each call) would be in vain.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "2")
    with own_server(home, free_port()) as url:
        yield url


@contextlib.contextmanager
def own_server(home: Path, port: int, host: str = LOOPBACK) -> Iterator[str]:
    """A server started here and stopped at the end; yields its API URL, which is in the environment meanwhile.

    Raises:
        PreflightError: it did not come up; the log is named.
    """
    set_defaults()
    make_dir(home)
    url = f"http://{LOOPBACK if host == '0.0.0.0' else host}:{port}/api"
    os.environ |= {"PREFECT_HOME": str(home.absolute()), "PREFECT_API_URL": url}
    log = home / "server.log"
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app",
        "--host", host, "--port", str(port), "--log-level", "warning", "--lifespan", "on",
    ]  # fmt: skip
    try:
        process = start(command, log)
        try:
            wait_until_up(process, f"{url}/health", log)
            yield url
        finally:
            stop(process)
    finally:
        os.environ.pop("PREFECT_API_URL", None)


def wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Returns when `url` answers.

    Raises:
        PreflightError: the process ended, or did not answer in two minutes.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PreflightError(f"the server for {url} ended with code {process.returncode}; see {log}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    stop(process)
    raise PreflightError(f"{url} did not answer within {_START_TIMEOUT_S:.0f} s; see {log}")


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
