"""talkset serve: Prefect server, work pools, workers, deployments and report pages on one machine, started and stopped
together, like a supervisor would.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from filelock import FileLock, Timeout

from flows.server.pools import CPU_POOL, GPU_POOL
from flows.server.prefect_server import LOOPBACK, own_server, wait_until_up
from flows.server.processes import start, stop
from storage.errors import ConfigError, LockedError, PreflightError
from storage.files import make_dir
from storage.stores import REPORTS_URL, STORES, default_store

# A worker that ends by itself is started again, at most this often.
_RESTART_AFTER_S = 5.0
# Long enough for a training to write its checkpoint.
_RUN_GRACE_S = 60.0
_WORKER_GRACE_S = 10.0
STOP_GRACE_S = _RUN_GRACE_S + 30.0
_AUTH = "PREFECT_SERVER_API_AUTH_STRING"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `talkset serve` can be told.

    Attributes:
        home: folder for the server's database and all logs.
        project: folder with prefect.yaml.
        host, port: of the Prefect server; the reports are on the next port.
        num_cpu_runs: refreshes at once. num_gpus: trainings at once.
        query_s: seconds between a worker's looks for work.
    """

    home: Path
    project: Path
    host: str = LOOPBACK
    port: int = 4200
    num_cpu_runs: int = 1
    num_gpus: int = 1
    query_s: float = 5.0


def serve(options: ServeOptions, say: Callable[[str], None] = print, ready: threading.Event | None = None) -> None:
    """Starts everything, keeps the workers alive, returns never; an exception (a signal) stops everything in order.

    Args:
        options: where and how much.
        say: gets a line per thing that is up.
        ready: set when everything is.

    Raises:
        LockedError: it is running already, with this home.
        PreflightError: a port is taken, the server did not come up, or the deployments could not be made.
        ConfigError: a host beyond loopback without a password.
    """
    _check_host(options)
    # Flow runs work in other folders than this one.
    os.environ[STORES] = os.environ.get(STORES) or str(default_store("x").parent)
    os.environ["PREFECT_WORKER_QUERY_SECONDS"] = str(options.query_s)
    with contextlib.ExitStack() as stack:
        # who runs it already is told that, not that a port is taken
        stack.enter_context(_only_one(options.home))
        _check_ports(options)
        os.environ[REPORTS_URL] = stack.enter_context(_reports(options))
        url = stack.enter_context(own_server(options.home, options.port, options.host))
        say(f"Prefect UI   {url.removesuffix('/api')}   (PREFECT_API_URL={url})")
        say(f"reports      {os.environ[REPORTS_URL]}")
        from flows.server.deployments import bootstrap
        from flows.server.orphaned_runs import close_stranded_runs, stop_runs

        bootstrap(options.num_cpu_runs, options.num_gpus, options.project)
        close_stranded_runs()
        stack.callback(close_stranded_runs)
        pools = {CPU_POOL: options.num_cpu_runs, GPU_POOL: options.num_gpus}
        workers = stack.enter_context(_workers(options.home, pools))
        stack.callback(stop_runs, list(pools), _RUN_GRACE_S)
        say(f"workers      {', '.join(workers)}; logs in {options.home}")
        say("run one with: prefect deployment run 'refresh/demo'; stop with Ctrl-C")
        if ready:
            ready.set()
        _supervise(workers, options.home, pools, say)


def _check_host(options: ServeOptions) -> None:
    if options.host not in (LOOPBACK, "localhost") and not os.environ.get(_AUTH):
        raise ConfigError(
            f"--host {options.host} opens the server to the network: set {_AUTH}=user:password for it, the same in "
            "PREFECT_API_AUTH_STRING for clients, and put a TLS proxy in front"
        )


def _check_ports(options: ServeOptions) -> None:
    for port in (options.port, options.port + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except OSError as error:
                raise PreflightError(f"port {port} is taken ({error.strerror}); pass another --port") from None


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    make_dir(home)
    try:
        with FileLock(home / "serve.lock", timeout=0):
            yield
    except Timeout:
        raise LockedError(f"{home}: talkset serve is running already; stop it, or pass another --home") from None


@contextlib.contextmanager
def _reports(options: ServeOptions) -> Iterator[str]:
    url, log = f"http://{options.host}:{options.port + 1}", options.home / "reports.log"
    command = [sys.executable, "-m", "flows.server.report_server", options.host, str(options.port + 1)]
    process = start(command, log)
    try:
        wait_until_up(process, f"{url}/health", log)
        yield url
    finally:
        stop(process)


@contextlib.contextmanager
def _workers(home: Path, pools: dict[str, int]) -> Iterator[dict[str, Popen[bytes]]]:
    workers = {pool: _start_worker(home, pool, limit) for pool, limit in pools.items()}
    try:
        yield workers
    finally:
        # All at once: each may have a run that needs a moment to stop.
        stopping = [
            threading.Thread(target=stop, args=(worker, signal.SIGTERM, _WORKER_GRACE_S)) for worker in workers.values()
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()


def _start_worker(home: Path, pool: str, limit: int) -> Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process",
               "--name", f"talkset-{pool}", "--limit", str(limit)]  # fmt: skip
    return start(command, home / f"worker-{pool}.log")


def _supervise(workers: dict[str, Popen[bytes]], home: Path, pools: dict[str, int], say: Callable[[str], None]) -> None:
    while True:
        time.sleep(1)
        for pool, worker in list(workers.items()):
            if worker.poll() is not None:
                say(f"worker {pool} ended with code {worker.returncode}; it is started again")
                time.sleep(_RESTART_AFTER_S)
                workers[pool] = _start_worker(home, pool, pools[pool])
