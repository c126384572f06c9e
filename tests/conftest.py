"""Fixtures that every test may ask for."""

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from tasks.demo import DemoTruth

WITHOUT_CLUSTERS = ("tests/flows/test_animate", "tests/flows/test_smoke", "tests/flows/test_train")
REPOSITORY = Path(__file__).resolve().parents[1]

# Tests run side by side, one process per core: more threads in each would only wait for one another, and sums would
# depend on their number. Set before anything loads numpy or torch; processes that tests start inherit it.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


class ClustersTogether(LoadFileScheduling):
    """Files go to a process as a whole, and those that start clusters and servers all to the same one: two of these at
    once take longer than one after the other.
    """

    def _split_scope(self, nodeid: str) -> str:
        has_clusters = nodeid.startswith("tests/flows/") and not nodeid.startswith(WITHOUT_CLUSTERS)
        return "clusters" if has_clusters else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ClustersTogether:
    """For pytest-xdist: which process runs which tests."""
    return ClustersTogether(config, log)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach beyond this machine: a connection or name look-up elsewhere is an error."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):  # type: ignore[index]
            raise PermissionError(f"tests stay on loopback: connection to {address} refused")
        connect(self, address)  # type: ignore[arg-type]

    def guarded_resolve(host: object, *args: object, **options: object) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not _is_loopback(str(name)):
            raise PermissionError(f"tests stay on loopback: look-up of {name} refused")
        return resolve(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "", "0.0.0.0", "::", socket.gethostname()):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all processes of this run of the tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def small_demo(common: Path) -> "DemoTruth":
    """The small demo, made once for all processes that test side by side; read it, change nothing."""
    from tasks.demo import make_demo

    with FileLock(common / "small_demo.lock"):
        return make_demo(common / "small_demo", size="small")


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of the real clips.

    Tests that ask for it are skipped where there are none. They fail instead where the clips are said to be there: the
    variable TALKSET_MEDIA names their folder, or CI is set and TALKSET_MEDIA is not empty.
    """
    named = os.environ.get("TALKSET_MEDIA")
    folder = Path(named or REPOSITORY.parent / "shared" / "media") / "sources"
    if not folder.is_dir():
        reason = f"no real clips: {folder} is absent (set TALKSET_MEDIA to the folder that holds sources/)"
        if named or (named is None and os.environ.get("CI")):
            pytest.fail(f"{reason}; an empty TALKSET_MEDIA says that there are none")
        pytest.skip(reason)
    return folder
