"""The commands of the README and of the tutorial, run on a small demo: all that need no server, network or weights."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import main
from storage.snapshot import Snapshot
from tasks.demo import DemoTruth
from tests.conftest import REPOSITORY
from tests.docs.markdown import talkset_lines

pytestmark = pytest.mark.timeout(600)
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
# Too long here, in need of files that are not there, or about a dataset of one's own; other tests run them.
LEFT_OUT = ("demo", "train", "animate", "serve", "weights import")


def commands() -> Iterator[str]:
    """Lines of the README and the tutorial in their order, on the store of the demo."""
    for page in (REPOSITORY / "README.md", TUTORIAL):
        for line in talkset_lines(page):
            words = " ".join(shlex.split(line, comments=True)[1:])
            if not words.startswith(LEFT_OUT) and " mead" not in words and "stores/mead" not in words:
                yield shlex.join(shlex.split(line, comments=True)[1:])


COMMANDS = list(dict.fromkeys(commands()))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, small_demo: DemoTruth) -> Path:
    """A folder with the small demo and datasets.yaml, nothing refreshed yet."""
    home = tmp_path_factory.mktemp("home")
    (home / "demo").symlink_to(small_demo.root, target_is_directory=True)
    (home / "datasets.yaml").write_bytes((REPOSITORY / "datasets.yaml").read_bytes())
    return home


@pytest.fixture(autouse=True)
def _clean(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs in the demo's folder, without variables of one's own; the signal handlers are put back."""
    monkeypatch.chdir(demo)
    for name in [name for name in os.environ if name.startswith(("TALKSET_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["talkset", *shlex.split(line)])
    try:
        main.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_both_pages_have_commands_to_run() -> None:
    assert {"refresh demo", "status", "verify", "report", "weights list"} <= set(COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_it_ends_well(
    line: str, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the pages: what comes after the refresh reads its store."""
    line += " --no-server --workers 1" * (line == "refresh demo")
    assert run(line, monkeypatch) == 0, capsys.readouterr().err
    if line.startswith("refresh demo --no-server"):
        assert Snapshot.open(demo / "stores" / "demo").body.counts["sources"]["done"] == 5
        assert json.loads((demo / "stores" / "demo" / "store.json").read_text())["dataset"] == "demo"
