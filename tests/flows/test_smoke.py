"""`talkset train edtalk --preset smoke` on the demo: the command in a process of its own, on the CPU, without network."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models.training import stages
from models.training.runs import checkpoint
from storage.runs import RunRecord, list_runs, load_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from storage.stores import STORES
from tasks.demo import DemoTruth
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.timeout(600)
TRAIN = ("train", "edtalk", "demo", "--preset", "smoke", "--device", "cpu", "--json")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# Python runs this first: whoever goes beyond this machine ends at once.
NO_NETWORK = """
import os, sys
def look(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1", "localhost"):
        os.write(2, f"reached for {args[1]}".encode())
        os._exit(99)
sys.addaudithook(look)
"""


class Demo:
    """A folder with the small demo and its store, and the command."""

    def __init__(self, folder: Path, raw: Path) -> None:
        self.folder, self.raw, self.store = folder, raw, folder / "stores" / "demo"
        (folder / "first").mkdir()
        (folder / "first" / "sitecustomize.py").write_text(NO_NETWORK)

    def start(self, *arguments: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The command in a session of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TALKSET_"))}
        path = os.pathsep.join((str(self.folder / "first"), str(REPOSITORY)))
        environment = kept | {
            "PYTHONPATH": path,
            STORES: str(self.store.parent),
            "TALKSET_DEMO": str(self.raw),
        }
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "flows", *arguments], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, launcher: Sequence[str] = ()) -> dict[str, Any]:
        """What it prints, which is one JSON value, when it succeeds."""
        out, err = (process := self.start(*arguments, launcher=launcher)).communicate(timeout=500)
        assert process.returncode == 0, err[-3000:]
        return json.loads(out)

    def kill_after(self, step: int, *arguments: str) -> RunRecord:
        """SIGKILL once the state of this step is there; the record of the run it was in."""
        process = self.start(*arguments)
        while not list(self.store.glob(f"runs/*/{checkpoint.FOLDER}/state-{step:08d}.json")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return list_runs(self.store)[-1]

    def record(self, line: dict[str, Any]) -> RunRecord:
        record = load_run(self.store, line["run"])
        assert record is not None
        return record


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, small_demo: DemoTruth) -> Demo:
    demo = Demo(tmp_path_factory.mktemp("smoke"), small_demo.root)
    catalog = str(REPOSITORY / "datasets.yaml")
    arguments = ("--store", str(demo.store), "--catalog", catalog, "--no-server", "--workers", "1", "--json")
    assert demo.run("refresh", "demo", *arguments)["status"] == "done"
    return demo


@pytest.fixture(scope="module")
def trained(demo: Demo) -> dict[str, Any]:
    """The answer of a training that was killed in its first stage and started again."""
    killed = demo.kill_after(20, *TRAIN)
    assert (killed.key.stage, killed.state, killed.sessions[0].ended_at) == ("reconstruction", "running", None)
    return demo.run(*TRAIN)


def test_every_stage_is_trained_and_leaves_model_and_card(demo: Demo, trained: dict[str, Any]) -> None:
    snapshot = Snapshot.open(demo.store)
    assert (trained["snapshot"], trained["system"]) == (snapshot.id, "edtalk")
    assert [line["stage"] for line in trained["stages"]] == list(stages.discover("edtalk"))
    assert len(trained["stages"]) == 7
    for line in trained["stages"]:
        record = demo.record(line)
        assert (record.state, record.sessions[-1].exit_reason, record.preset) == ("done", "done", "smoke")
        assert record.sessions[-1].hardware["device"] == "cpu"
        assert record.sessions[-1].first_step == (20 if line["stage"] == "reconstruction" else 0)
        folder = run_folder(demo.store, record.id)
        assert checkpoint.is_intact(folder, record.model())
        assert line["model"] == str(folder / record.model().file)
        card = (folder / "README.md").read_text()
        assert f"\n{line['step']} steps from " in card
        assert snapshot.id in card
        assert (demo.store / "pins" / record.id).read_text() == snapshot.id


def test_the_second_call_trains_nothing(demo: Demo, trained: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.store.rglob("*")}
    assert demo.run(*TRAIN) == trained
    assert {path: path.stat().st_mtime_ns for path in demo.store.rglob("*")} == before


def test_under_torchrun_two_processes_train_and_one_answers(demo: Demo, trained: dict[str, Any]) -> None:
    answer = demo.run(*TRAIN, "--stage", "audio2pose", "--set", "audio2pose.train.max_steps=4", launcher=LAUNCHER)
    *before, line = answer["stages"]
    assert all(known in trained["stages"] for known in before)
    record = demo.record(line)
    assert (line["stage"], line["step"], record.state) == ("audio2pose", 4, "done")
    assert [session.num_ranks for session in record.sessions] == [2]
