"""A Prefect server on loopback for one run, when there is none to use."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from storage.errors import PreflightError

_START_TIMEOUT_S = 120.0

# Nothing is sent outside; bursts of task runs lose no record (the defaults of 1 per batch do).
ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DASK_LOGGING__DISTRIBUTED": "error",
    "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_API_HOST": "127.0.0.1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
}


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The API URL to use: PREFECT_API_URL when it is set, else of a server started here and stopped at the end.

    Sets the environment for this process and its children; import prefect only inside the block, it reads its
    settings when imported.

    Args:
        home: folder for the server's database and log; it is kept, so that the next start is quick.

    Raises:
        PreflightError: the server did not come up; the log is named.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        _require_answer(given)
        yield given
        return
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    os.environ |= {"PREFECT_HOME": str(home.absolute()), "PREFECT_API_URL": url}
    try:
        with (home / "server.log").open("ab") as log:
            process = _start(port, log.fileno())
        try:
            _wait_until_up(process, url, home / "server.log")
            yield url
        finally:
            _stop(process)
    finally:
        os.environ.pop("PREFECT_API_URL", None)


def _require_answer(url: str) -> None:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise PreflightError(
            f"PREFECT_API_URL is {url}, which does not answer ({reason}); start it or unset it"
        ) from None


def _start(port: int, log: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app",
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "--lifespan", "on",
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent, start_new_session=True)


def _die_with_parent() -> None:
    # A run that is killed outright cannot stop its server: the kernel does (Linux only; elsewhere it is left behind).
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PreflightError(f"the Prefect server ended with code {process.returncode}; see {log}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    _stop(process)
    raise PreflightError(f"the Prefect server was not up after {_START_TIMEOUT_S:.0f} s; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
