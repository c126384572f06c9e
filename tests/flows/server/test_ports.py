"""S-02: whoever sits at another machine reaches nothing of a refresh."""

from collections.abc import Callable
from ipaddress import ip_address

import psutil

from tests.flows.lab import Lab, Running
from tests.flows.test_kills import is_computing

MakeLab = Callable[..., Lab]


def test_every_socket_of_a_default_refresh_listens_on_loopback(make_lab: MakeLab) -> None:
    """Driver with scheduler and dashboard, workers, nannies, Prefect server."""
    lab = make_lab()
    lab.api_url = None
    run = lab.start(env={"TALKSET_TEST_PAUSE": "2"})
    try:
        run.wait_for(lambda: is_computing(lab), 240)
        listening = _listening(run)
        server, workers = run.server(), [process.pid for process in run.workers()]
    finally:
        run.kill_all()
    outside = [place for place in listening if not ip_address(place[1]).is_loopback]
    assert outside == []
    owners = {pid for pid, _, _ in listening}
    assert run.process.pid in owners
    assert server is not None
    assert server.pid in owners
    assert set(workers) & owners


def _listening(run: Running) -> list[tuple[int, str, int]]:
    """Process, address and port of every listening TCP and every bound UDP socket of the run."""
    return [
        (process.pid, socket.laddr.ip, socket.laddr.port)
        for process in run.family()
        for socket in process.net_connections("inet")
        if socket.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and socket.laddr
    ]
