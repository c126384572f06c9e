"""talkset serve: Prefect server, work pools, workers, deployments and report pages of one machine, started and stopped
together.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from filelock import FileLock, Timeout

from flows.server.prefect_server import CPU_POOL, GPU_POOL, LOOPBACK, own_server, wait_until_up
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
    """Options of `talkset serve`.

    Attributes:
        home: folder for the server's database and all logs.
        project: folder with prefect.yaml.
        host, port: address of the Prefect server; the reports are on the next port.
        num_cpu_runs: refreshes at once.
        num_gpus: trainings at once.
        query_s: seconds between two polls of a worker for runs.
    """

    home: Path
    project: Path
    host: str = LOOPBACK
    port: int = 4200
    num_cpu_runs: int = 1
    num_gpus: int = 1
    query_s: float = 5.0


def serve(options: ServeOptions, say: Callable[[str], None] = print, ready: threading.Event | None = None) -> None:
    """Starts everything, keeps the workers alive, never returns; an exception (a signal) stops everything in order.

    Args:
        options: where and how much.
        say: called with a line for each service that is up.
        ready: set when all are.

    Raises:
        LockedError: it is running already, with this home.
        PreflightError: a port is taken, the server did not come up, or the deployments could not be made.
        ConfigError: a host beyond loopback without a password.
    """
    if options.host not in (LOOPBACK, "localhost") and not os.environ.get(_AUTH):
        raise ConfigError(
            f"--host {options.host} opens the server to the network: set {_AUTH}=user:password for it, the same in "
            "PREFECT_API_AUTH_STRING for clients, and put a TLS proxy in front"
        )
    # Flow runs work in other folders than this one.
    os.environ[STORES] = os.environ.get(STORES) or str(default_store("x").parent)
    os.environ["PREFECT_WORKER_QUERY_SECONDS"] = str(options.query_s)
    with contextlib.ExitStack() as stack:
        # Before the ports: a second `talkset serve` must be named as the reason, not the port that it has taken.
        stack.enter_context(home_lock(options.home))
        require_free_ports(options.host, options.port, options.port + 1)
        os.environ[REPORTS_URL] = stack.enter_context(report_pages(options))
        url = stack.enter_context(own_server(options.home, options.port, options.host))
        say(f"Prefect UI   {url.removesuffix('/api')}   (PREFECT_API_URL={url})")
        say(f"reports      {os.environ[REPORTS_URL]}")
        from flows.server.deployments import bootstrap
        from flows.server.orphaned_runs import close_orphaned_runs, stop_runs

        bootstrap(options.num_cpu_runs, options.num_gpus, options.project)
        close_orphaned_runs()
        stack.callback(close_orphaned_runs)
        workers = Workers(options.home, {CPU_POOL: options.num_cpu_runs, GPU_POOL: options.num_gpus})
        stack.callback(workers.stop)
        workers.start()
        stack.callback(stop_runs, list(workers.limits), _RUN_GRACE_S)
        say(f"workers      {', '.join(workers.limits)}; logs in {options.home}")
        say("run one with: prefect deployment run 'refresh/demo'; stop with Ctrl-C")
        if ready:
            ready.set()
        workers.supervise(say)


@contextlib.contextmanager
def home_lock(home: Path) -> Iterator[None]:
    """One `talkset serve` per home.

    Raises:
        LockedError: another one is running.
    """
    make_dir(home)
    try:
        with FileLock(home / "serve.lock", timeout=0):
            yield
    except Timeout:
        raise LockedError(f"{home}: talkset serve is running already; stop it, or pass another --home") from None


def require_free_ports(host: str, *ports: int) -> None:
    """Checks that nothing listens on these TCP ports.

    Raises:
        PreflightError: something does.
    """
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise PreflightError(f"port {port} is taken ({error.strerror}); pass another --port") from None


@contextlib.contextmanager
def report_pages(options: ServeOptions) -> Iterator[str]:
    """The report server in a process of its own; yields its URL."""
    url, log = f"http://{options.host}:{options.port + 1}", options.home / "reports.log"
    command = [sys.executable, "-m", "flows.server.report_server", options.host, str(options.port + 1)]
    process = start(command, log)
    try:
        wait_until_up(process, f"{url}/health", log)
        yield url
    finally:
        stop(process)


@dataclass(slots=True)
class Workers:
    """One Prefect worker process per work pool.

    Attributes:
        home: folder for their logs.
        limits: work pool -> runs at once.
        processes: work pool -> process, of those that have been started.
    """

    home: Path
    limits: Mapping[str, int]
    processes: dict[str, Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Starts a worker for every pool that has none alive."""
        for pool, limit in self.limits.items():
            if pool not in self.processes or self.processes[pool].poll() is not None:
                command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process",
                           "--name", f"talkset-{pool}", "--limit", str(limit)]  # fmt: skip
                self.processes[pool] = start(command, self.home / f"worker-{pool}.log")

    def supervise(self, say: Callable[[str], None]) -> None:
        """Starts workers again that end by themselves; never returns."""
        while True:
            time.sleep(1)
            ended = {pool: worker for pool, worker in self.processes.items() if worker.poll() is not None}
            for pool, worker in ended.items():
                say(f"worker {pool} ended with code {worker.returncode}; it is started again")
            if ended:
                time.sleep(_RESTART_AFTER_S)
                self.start()

    def stop(self) -> None:
        """Stops all workers side by side: each may have a run that needs a moment to stop."""
        stopping = [
            threading.Thread(target=stop, args=(worker, signal.SIGTERM, _WORKER_GRACE_S))
            for worker in self.processes.values()
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
