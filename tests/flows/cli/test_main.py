"""The command: help, exit codes, JSON, usage errors that help, and what makes a run fail before it starts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import main
from flows.pipeline import preflight
from storage.lock import writer_lock
from storage.snapshot import Snapshot
from tests.conftest import REPOSITORY
from tests.synthetic_store import build_store

COMMANDS = ("demo", "refresh", "status", "explain", "verify", "diff", "report", "gc", "export")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def fails(self, code: int, *words: str) -> None:
        """One line on stderr that holds all `words`, nothing on stdout."""
        assert self.code == code, self
        assert self.out == ""
        (line,) = self.err.strip().splitlines()
        assert line.startswith("talkset: ")
        assert all(word in line for word in words), line


Talkset = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The command installs handlers of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def talkset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Talkset:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("TALKSET_", "PREFECT_"))]:
        if name != "TALKSET_MEDIA":
            monkeypatch.delenv(name)

    def run(*args: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["talkset", *map(str, args)])
        capsys.readouterr()
        code: Any = 0
        try:
            main.main()
        except SystemExit as ended:
            code = ended.code
        shown = capsys.readouterr()
        return Answer(code or 0, shown.out, shown.err)

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    build_store(folder, clips_per_subject=1, num_frames=(10,))
    build_store(folder, clips_per_subject=2, num_frames=(10,), with_trouble=True)
    return folder


@pytest.fixture
def catalog(tmp_path: Path) -> Callable[..., Path]:
    """Writes a datasets.yaml with one block `small` whose root holds one file that is no video."""

    def write(**changes: Any) -> Path:
        root = tmp_path / "raw" / "A"
        root.mkdir(parents=True, exist_ok=True)
        (root / "1.mp4").write_bytes(b"no video")
        layout = {"pattern": "{subject}/{take}.mp4", "name": "{subject}#{take}"}
        block = {"root": str(tmp_path / "raw"), "layouts": {"all": layout}, "features": {"landmarks": {}}} | changes
        path = tmp_path / "catalog.yaml"
        path.write_text(yaml.safe_dump({"small": block, "smooth": block}))
        return path

    return write


# ---- help and listings


def test_help_is_everywhere(talkset: Talkset) -> None:
    top = talkset("--help")
    assert top.code == 0
    assert all(command in top.out for command in COMMANDS)
    for command in COMMANDS:
        answer = talkset(command, "--help")
        assert (answer.code, "Usage:" in answer.out) == (0, True)
    for kind in ("edtalk", "emogene", "webdataset"):
        assert f"export {kind}" in talkset("export", kind, "--help").out


def test_without_a_command_the_help_is_shown(talkset: Talkset) -> None:
    answer = talkset()
    assert "Usage:" in answer.out + answer.err
    assert answer.code in (0, 2)


def test_a_process_of_its_own_does_the_same(store: Path) -> None:
    """The installed entry point: exit code, JSON on stdout, nothing else."""
    command = [
        sys.executable,
        "-c",
        "from flows.cli.main import main; main()",
        "status",
        "--store",
        str(store),
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["dataset"] == "synthetic"


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (("status",), "snapshots"), (("verify",), "is_whole"), (("diff", "1"), "clips"), (("diff", "1", "2"), "sources"),
        (("explain", "S000#angry#level_1#001"), "sources"), (("gc", "--dry-run", "--keep", "1"), "objects"),
    ],
)  # fmt: skip
def test_every_listing_prints_json_and_text(talkset: Talkset, store: Path, args: tuple[str, ...], key: str) -> None:
    as_json = talkset(*args, "--store", store, "--json")
    assert (as_json.code, as_json.err) == (0, "")
    assert key in as_json.json
    as_text = talkset(*args, "--store", store)
    assert as_text.code == 0
    assert as_text.out.strip()
    with pytest.raises(ValueError):
        json.loads(as_text.out)


def test_report_and_gc_do_what_they_say(talkset: Talkset, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    written = talkset("report", "--store", copy, "--out", tmp_path / "page", "--json").json
    assert Path(written["report"]).is_file()
    answer = talkset("gc", "--store", copy, "--keep", "1", "--grace-hours", "0", "--json").json
    assert (answer["removed"], answer["snapshots"]) == (True, [1])
    assert answer["objects"] > 0
    assert talkset("verify", "--store", copy, "--json").json["is_whole"] is True


def test_the_store_may_come_from_the_environment_or_the_folder(
    talkset: Talkset, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALKSET_STORE", str(store))
    assert talkset("status").code == 0
    monkeypatch.delenv("TALKSET_STORE")
    monkeypatch.chdir(store)
    assert talkset("status").code == 0


def test_a_damaged_store_fails_verify_with_1_and_names_the_file(talkset: Talkset, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    path = Snapshot.open(copy).objects.path(Snapshot.open(copy).body.shards[0].cut.key) / "frames" / "data.mdb"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    answer = talkset("verify", "--store", copy, "--json")
    assert answer.code == 1
    assert any(str(path) in problem for problem in answer.json["problems"])


# ---- usage


def test_an_unknown_dataset_names_the_nearest(talkset: Talkset, catalog: Callable[..., Path]) -> None:
    talkset("refresh", "smal", "--catalog", catalog()).fails(2, "did you mean 'small'", "smooth")


@pytest.mark.parametrize("which", ["7", "0", "ffffff", "newest"])
def test_a_snapshot_that_is_not_there(talkset: Talkset, store: Path, which: str) -> None:
    for command in (("verify",), ("report",), ("explain", "x")):
        talkset(*command, "--store", store, "--snapshot", which).fails(2, which, "1 to 2")


def test_workers_and_scheduler_exclude_each_other(talkset: Talkset, catalog: Callable[..., Path]) -> None:
    options = ("--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    talkset("refresh", "small", "--catalog", catalog(), *options).fails(2, "--workers", "--scheduler")


@pytest.mark.parametrize(
    "args",
    [("refrsh",), ("refresh",), ("status", "--jsn"), ("refresh", "small", "--workers", "0"), ("gc", "--keep", "x")],
)
def test_what_typer_refuses_ends_with_2(talkset: Talkset, args: tuple[str, ...]) -> None:
    answer = talkset(*args)
    assert answer.code == 2
    assert "Usage" in answer.err


def test_no_store_and_another_folder(talkset: Talkset, tmp_path: Path) -> None:
    talkset("status").fails(2, "--store", "TALKSET_STORE")
    talkset("status", "--store", tmp_path).fails(2, "no talkset store")
    talkset("explain", "x", "--store", tmp_path / "nowhere").fails(2, "no talkset store")


def test_explain_prints_step_meaning_and_what_to_change(talkset: Talkset, store: Path) -> None:
    answer = talkset("explain", "T002#angry#level_1#001", "--store", store)
    lines = [line.strip() for line in answer.out.splitlines()]
    why = talkset("explain", "T002#angry#level_1#001", "--store", store, "--json").json["sources"][0]["why"]
    assert {f"step: {why['step']}", f"meaning: {why['meaning']}", f"to change: {why['change']}"} <= set(lines)
    assert why["step"] == "cut"


def test_an_unknown_name_to_explain(talkset: Talkset, store: Path) -> None:
    talkset("explain", "nobody", "--store", store).fails(2, "nobody", "talkset refresh")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": {"landmarks": {}, "mell": {}}}, ("mell", "mel")),
        ({"features": {"landmarks": {}, "mel": {"pad": 1}}}, ("mel.pad", "pad_mode")),
        ({"features": {"landmarks": {}, "mel": {"pad_mode": "zero"}}}, ("mel.pad_mode", "reflect")),
        ({"thresholds": {"sync_confidence": {"min": 1}}}, ("thresholds.sync_confidence",)),
        ({"face": {"backend": "dlob"}}, ("dlob", "dlib")),
        ({"face": {"tracking": {"detect_evry": 3}}}, ("detect_evry", "detect_every")),
        ({"featurs": {}}, ("featurs", "features")),
        ({"features": {}}, ("landmarks",)),
    ],
)  # fmt: skip
def test_a_wrong_block_is_refused_at_once_by_name(
    talkset: Talkset, catalog: Callable[..., Path], tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    began = time.monotonic()
    answer = talkset("refresh", "small", "--catalog", catalog(**change), "--store", tmp_path / "s")
    answer.fails(2, *words)
    assert time.monotonic() - began < 10
    assert not (tmp_path / "s" / "state" / "prefect").exists()


# ---- preflight


def refresh(talkset: Talkset, catalog: Path, store: Path, *args: str) -> Answer:
    return talkset("refresh", "small", "--catalog", catalog, "--store", store, *args)


def test_a_missing_root_and_an_unset_variable(talkset: Talkset, catalog: Callable[..., Path], tmp_path: Path) -> None:
    refresh(talkset, catalog(root=str(tmp_path / "gone")), tmp_path / "s").fails(1, str(tmp_path / "gone"), "root")
    refresh(talkset, catalog(root="${NO_SUCH_ROOT}/x"), tmp_path / "s").fails(1, "${NO_SUCH_ROOT}", "variable")


def test_too_little_disk(
    talkset: Talkset, catalog: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MIN_FREE_BYTES", 1 << 60)
    refresh(talkset, catalog(), tmp_path / "s").fails(1, "GiB", "make room")


@pytest.mark.parametrize("backend", ["face_alignment", "mediapipe"])
def test_missing_weights(
    talkset: Talkset, catalog: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    refresh(talkset, catalog(face={"backend": backend}), tmp_path / "s").fails(1, "not found", "TALKSET_WEIGHTS")


def test_a_store_that_cannot_be_made_or_written(talkset: Talkset, catalog: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refresh(talkset, catalog(), tmp_path / "file" / "s").fails(1, "--store")


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv to be refused")
@pytest.mark.parametrize("what", ["store", "root"])
def test_no_permission(catalog: Callable[..., Path], tmp_path: Path, what: str) -> None:
    """As a user who may not: a process without root's capabilities."""
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    given, closed = catalog(), {"store": tmp_path / "s", "root": tmp_path / "raw"}[what]
    closed.mkdir(exist_ok=True)
    closed.chmod(0o000 if what == "root" else 0o555)
    command = [*plain, sys.executable, "-c", "from flows.cli.main import main; main()", "refresh", "small",
               "--catalog", str(given), "--store", str(tmp_path / "s")]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    closed.chmod(0o755)
    Answer(done.returncode, done.stdout, done.stderr).fails(1, str(closed), "permission")


def test_a_locked_store_names_its_holder_and_ends_with_4(
    talkset: Talkset, catalog: Callable[..., Path], tmp_path: Path, store: Path
) -> None:
    with writer_lock(tmp_path / "s"):
        began = time.monotonic()
        refresh(talkset, catalog(), tmp_path / "s").fails(4, f"process {os.getpid()} on", "--wait")
        assert time.monotonic() - began < 5
    with writer_lock(store):
        talkset("gc", "--store", store).fails(4, f"process {os.getpid()}")
        assert talkset("status", "--store", store, "--json").json["writer"]["pid"] == os.getpid()
        assert talkset("verify", "--store", store).code == 0, "readers need no lock"


def test_another_datasets_store_is_refused(talkset: Talkset, catalog: Callable[..., Path], store: Path) -> None:
    refresh(talkset, catalog(), store).fails(2, "synthetic", "small")


# ---- training


def test_a_run_that_goes_on_is_of_one_stage(talkset: Talkset, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setenv("TALKSET_STORES", str(store))
    train = ("train", "edtalk", "synthetic", "--preset", "smoke", "--device", "cpu")
    talkset(*train, "--continue-from", "x").fails(2, "--stage", "once")
    talkset(*train, "--stage", "reconstruction", "--allow-dataset-change").fails(2, "--continue-from")
    talkset(*train, "--stage", "reconstruction", "--continue-from", "x").fails(2, "no run 'x' of edtalk reconstruction")


# ---- dry run


def test_dry_run_says_what_would_be_done_and_writes_no_object(
    talkset: Talkset, catalog: Callable[..., Path], tmp_path: Path
) -> None:
    answer = refresh(talkset, catalog(), tmp_path / "s", "--dry-run", "--json")
    assert answer.code == 0
    assert {name: answer.json[name] for name in ("sources", "unusable", "shards", "cuts", "tables")} == {
        "sources": 1, "unusable": 0, "shards": 1, "cuts": 1, "tables": 1,
    }  # fmt: skip
    assert not (tmp_path / "s" / "objects").exists()
    assert not (tmp_path / "s" / "snapshots").exists()
