"""fit_stage end to end on the toy GAN: killed, disturbed, doubled, spread over processes; the result is always the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from models.data.clip_dataset import ClipDataset
from models.training import stages
from models.training.engine.engine import Engine
from models.training.engine.errors import NonFinite
from models.training.runs import checkpoint, fit
from models.training.runs.locks import exclusive
from models.training.runs.metrics_log import read_metrics
from storage.errors import (
    ConfigError,
    LockedError,
    OutOfSpace,
    PreflightError,
    StoreCorrupt,
    TalksetError,
    WeightsError,
)
from storage.runs import RunRecord, list_runs, load_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from tests.conftest import REPOSITORY
from tests.models.toy import assert_same_ending, ending, fit_toy, model_tensors
from tests.models.training.runs.test_checkpoint import damage_flip, small_disk
from tests.synthetic_store import build_store

pytestmark = pytest.mark.usefixtures("toy_system")


@pytest.fixture(scope="module")
def unbroken(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ending of the default run."""
    with pytest.MonkeyPatch.context() as patch:
        import models
        from tests.models import toy

        patch.setattr(models, "__path__", [*models.__path__, toy.SYSTEMS])
        store = shutil.copytree(small_store, tmp_path_factory.mktemp("unbroken") / "store")
        record = fit_toy(store)
        return {**ending(store, record.id), "id": record.id}


def driver(command: dict[str, Any], launcher: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    """tests.models.driver in a session of its own."""
    arguments = [sys.executable, *launcher, "-m", "tests.models.driver", json.dumps(command)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        arguments, cwd=REPOSITORY, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def drive(command: dict[str, Any], launcher: tuple[str, ...] = (), **environment: str) -> tuple[int, str, str]:
    """Its exit code, output and errors."""
    process = driver(command, launcher, **environment)
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):  # torchrun's are in sessions of their own
            child.kill()
        process.kill()
        raise
    return process.returncode, out, err


@contextmanager
def fault_at(step: int, error: BaseException) -> Iterator[None]:
    """Raises before this step."""
    advance = Engine.advance

    def faulty(self: Engine, batch: Any) -> None:
        if self.step == step:
            raise error
        advance(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "advance", faulty)
        yield


def only_run(store: Path) -> RunRecord:
    (record,) = list_runs(store)
    return record


# ---- done once


def test_the_record_says_what_was_done(store: Path, unbroken: dict[str, Any]) -> None:
    record = fit_toy(store)
    assert record == load_run(store, record.id)
    assert (record.id, record.state, record.preset, record.seed) == (unbroken["id"], "done", "smoke", 0)
    (session,) = record.sessions
    assert (session.first_step, session.last_step, session.resumed_from) == (0, 12, None)
    assert (session.num_ranks, session.exit_reason, session.hardware["device"]) == (1, "done", "cpu")
    assert [(entry.step, entry.kind) for entry in record.checkpoints[-2:]] == [(12, "model"), (12, "state")]
    assert record.checkpoints == checkpoint.list_checkpoints(run_folder(store, record.id))
    assert (store / "pins" / record.id).read_text() == record.key.snapshot
    about = checkpoint.read_metadata(run_folder(store, record.id) / record.model().file)
    assert {name: about[name] for name in ("crop", "face")} == {
        name: Snapshot.open(store).body.config[name] for name in ("crop", "face")
    }
    lines = read_metrics(run_folder(store, record.id))
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 3), ("train", 6), ("val", 6), ("train", 9), ("train", 12), ("val", 12),
    ]  # fmt: skip
    assert record.metrics == lines[-1]["values"]
    assert sorted(path.name for path in run_folder(store, record.id).glob("pictures/*")) == [
        "00000006.png", "00000012.png",
    ]  # fmt: skip
    assert list(run_folder(store, record.id).glob("tensorboard/events*"))
    assert_same_ending(ending(store, record.id), unbroken)


def test_what_is_done_is_not_done_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = fit_toy(store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    monkeypatch.setattr(fit, "Engine", None)
    assert fit_toy(store, train={"num_workers": 1, "keep_last": 1, "log_every": 1}) == record
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_another_config_seed_or_snapshot_is_another_run(store: Path) -> None:
    runs = [fit_toy(store, train={"max_steps": 1}, **change).id for change in ({}, {"width": 4})]
    runs.append(fit_toy(store, train={"max_steps": 1, "seed": 1}).id)
    second = build_store(store, clips_per_subject=7, num_frames=(6, 7, 8))
    runs.append(fit_toy(store, train={"max_steps": 1}).id)
    assert len(set(runs)) == 4
    assert load_run(store, runs[3]).key.snapshot == second.id  # type: ignore[union-attr]
    assert load_run(store, runs[3]).ancestors == (second.body.parent,)  # type: ignore[union-attr]


def test_a_damaged_model_is_made_again_from_the_state(store: Path, unbroken: dict[str, Any]) -> None:
    record = fit_toy(store)
    damage_flip(run_folder(store, record.id) / record.model().file)
    again = fit_toy(store)
    assert again.model() == record.model()
    assert [(session.first_step, session.last_step) for session in again.sessions] == [(0, 12), (12, 12)]
    assert checkpoint.is_intact(run_folder(store, record.id), again.model())
    assert_same_ending(ending(store, record.id), unbroken)


def test_a_stage_starts_from_its_parents_model(store: Path) -> None:
    with pytest.raises(ConfigError, match="toy after starts from a finished run of stage 'gan'"):
        fit_toy(store, "after")
    first = fit_toy(store)
    with pytest.raises(ConfigError, match="finished run"):
        fit_toy(store, "after", parents={"gan": first.model_copy(update={"state": "failed"})})
    second = fit_toy(store, "after", parents={"gan": first, "other": first}, rate=0.0)
    assert {name: parent.sha256 for name, parent in second.key.parents.items()} == {"gan": first.model().sha256}
    begun, ended = model_tensors(store, first)["generator.4.weight"], model_tensors(store, second)["line.weight"]
    assert torch.equal(begun, ended)
    third = fit_toy(store, "after", parents={"gan": first}, rate=0.1)
    assert model_tensors(store, third)["line.weight"].norm() < begun.norm()
    assert list(second.metrics) == ["train_size"]
    damage_flip(run_folder(store, first.id) / first.model().file)
    with pytest.raises(StoreCorrupt, match="model-00000012"):
        fit_toy(store, "after", parents={"gan": first}, train={"seed": 1})


# ---- ended by the learner

STOPPED = {"stop_after": 5}


def test_a_finished_learner_ends_the_run_as_its_last_step_would(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = fit_toy(store, **STOPPED)
    folder = run_folder(store, record.id)
    assert (record.state, record.sessions[0].last_step, record.sessions[0].exit_reason) == ("done", 5, "done")
    assert [(entry.step, entry.kind) for entry in record.checkpoints[-2:]] == [(5, "model"), (5, "state")]
    lines = read_metrics(folder)
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 3), ("train", 5), ("val", 5)]
    assert record.metrics == lines[-1]["values"]
    assert [path.name for path in folder.glob("pictures/*")] == ["00000005.png"]
    assert "\n5 steps from random weights" in (folder / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"ended by itself after 5 steps"):
        fit_toy(store, train={"max_steps": 15}, options={"continue_from": record.id}, **STOPPED)
    monkeypatch.setattr(fit, "Engine", None)
    assert fit_toy(store, **STOPPED) == record


def test_a_run_that_its_learner_ends_is_resumed_from_anywhere(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted one step before the end, then between the last checkpoint and 'done'."""
    unbroken = ending(store, fit_toy(store, **STOPPED).id)
    shutil.rmtree(store / "runs")
    with fault_at(4, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        fit_toy(store, **STOPPED)
    with monkeypatch.context() as patch:
        patch.delattr(fit, "_write_card")
        with pytest.raises(NameError):
            fit_toy(store, **STOPPED)
    record = fit_toy(store, **STOPPED)
    assert [(session.first_step, session.last_step) for session in record.sessions] == [(0, 4), (4, 5), (5, 5)]
    assert record.state == "done"
    assert_same_ending(ending(store, record.id), unbroken)


# ---- killed and resumed


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system for TMPDIR")
def test_kill_9_at_any_operation_on_the_disk_costs_nothing(store: Path, unbroken: dict[str, Any]) -> None:
    """T-01: killed at its first, second, third, ... sync, rename, removal or write of tensors, with TMPDIR elsewhere."""
    kills = [*range(1, 62, 4), 10_000]
    code, out, err = drive({"store": str(store), "fault": {"sweep": kills}}, TMPDIR="/dev/shm")
    assert code == 0, err
    steps = json.loads(out.splitlines()[-1])
    assert steps == sorted(steps), "a kill lost a state that was there before"
    assert steps[-1] == 12
    assert len({0, 4, 8} & set(steps)) == 3, "the kills did not hit every part of the run"
    record = only_run(store)
    assert record.state == "done"
    assert record.sessions[-1].exit_reason == "done"
    assert {session.ended_at for session in record.sessions[:-1]} == {None}
    assert_same_ending(ending(store, unbroken["id"]), unbroken)
    assert not list(store.rglob("*.unfinished"))


def test_resume_with_other_workers_after_a_kill_between_checkpoints(store: Path, unbroken: dict[str, Any]) -> None:
    """T-04 and the chain of sessions: killed at step 7, resumed at 4 with one more worker."""
    code, _, err = drive({"store": str(store), "fault": {"kill_step": 7}})
    assert code == -signal.SIGKILL, err
    assert (only_run(store).state, only_run(store).sessions[0].ended_at) == ("running", None)
    assert max(line["step"] for line in read_metrics(run_folder(store, unbroken["id"]))) == 6
    record = fit_toy(store, train={"num_workers": 1, "save_every": 5})
    assert [session.first_step for session in record.sessions] == [0, 4]
    assert record.sessions[1].resumed_from is not None
    ours = ending(store, record.id)
    assert_same_ending(ours, unbroken)


@pytest.mark.parametrize("to_group", [False, True])
def test_sigterm_saves_and_ends_with_143(store: Path, unbroken: dict[str, Any], to_group: bool) -> None:
    """Also when the data loader's worker gets the signal, as it does from most supervisors and from Ctrl-C."""
    command = {
        "store": str(store),
        "is_chatty": True,
        "fault": {"pause_s": 0.2},
        "train": {"num_workers": int(to_group)},
    }
    process = driver(command)
    assert process.stdout is not None
    line = next(line for line in process.stdout if line == "step 2\n")
    assert line
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM) if to_group else process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (143, "")
    assert time.monotonic() - began < 15
    record = only_run(store)
    assert (record.state, record.sessions[0].exit_reason) == ("interrupted", "interrupted: SIGTERM")
    stopped_at = record.sessions[0].last_step
    assert stopped_at in (2, 3)
    assert [entry.step for entry in record.checkpoints] == [stopped_at, stopped_at]
    resumed = fit_toy(store)
    assert resumed.sessions[1].first_step == stopped_at
    assert resumed.sessions[1].resumed_from == record.checkpoints[1].sha256
    assert_same_ending(ending(store, record.id), unbroken)


def test_a_killed_worker_ends_the_run_in_seconds(store: Path, unbroken: dict[str, Any]) -> None:
    """T-03."""
    began = time.monotonic()
    code, _, err = drive({"store": str(store), "fault": {"kill_worker": 3}, "train": {"num_workers": 1}})
    assert code == 1
    assert time.monotonic() - began < 60
    assert "DataLoader worker" in err
    assert "killed" in err
    assert "run again to resume" in err.splitlines()[-1]
    assert (only_run(store).state, len(only_run(store).sessions)) == ("failed", 1)
    fit_toy(store)
    assert_same_ending(ending(store, unbroken["id"]), unbroken)


def test_an_error_in_a_worker_is_not_called_its_death(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ClipDataset, index: int) -> None:
        raise RuntimeError("bad pixels")

    monkeypatch.setattr(ClipDataset, "__getitem__", fail)
    with pytest.raises(RuntimeError, match="bad pixels"):
        fit_toy(store, train={"num_workers": 1})
    assert "RuntimeError: Caught RuntimeError in DataLoader worker" in (only_run(store).sessions[0].exit_reason or "")


def test_a_damaged_newest_state_costs_steps_and_nothing_else(
    store: Path, unbroken: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with fault_at(9, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        fit_toy(store)
    assert only_run(store).sessions[0].exit_reason == "interrupted: KeyboardInterrupt"
    damage_flip(run_folder(store, unbroken["id"]) / "checkpoints/state-00000008.safetensors")
    record = fit_toy(store)
    assert [session.first_step for session in record.sessions] == [0, 4]
    assert "state-00000008.safetensors: sha256 is" in caplog.text
    assert "falling back" in caplog.text
    assert_same_ending(ending(store, record.id), unbroken)


# ---- failures


def test_nan_stops_the_run_and_keeps_the_state(store: Path) -> None:
    """T-05: the checkpoint before is intact, what was reached is kept beside it, the same call fails the same way."""
    for _ in range(2):
        with pytest.raises(NonFinite, match="step 6: the loss of 'generator' is nan"):
            fit_toy(store, nan_loss_at=5)
    record = only_run(store)
    assert record.state == "failed"
    assert "NonFinite: step 6" in (record.sessions[1].exit_reason or "")
    assert [(session.first_step, session.last_step) for session in record.sessions] == [(0, 5), (4, 5)]
    folder = run_folder(store, record.id)
    found = checkpoint.load_state(folder)
    assert found is not None
    assert found[0].step == 4
    kept = checkpoint.Sidecar.model_validate_json((folder / "checkpoints/failed-state-00000005.json").read_bytes())
    assert (kept.step, kept.plain["step"]) == (5, 5)
    assert {entry.step for entry in record.checkpoints} == {4}


def test_full_disk_fails_the_run_and_costs_no_checkpoint(store: Path) -> None:
    """T-05: with space again the run goes on and ends as it would have."""
    with fault_at(6, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        fit_toy(store, width=3000)
    name = only_run(store).id
    before = {path: path.read_bytes() for path in (run_folder(store, name) / "checkpoints").iterdir()}
    with small_disk(100_000), pytest.raises(OutOfSpace, match=r"model-00000008.*no space left"):
        fit_toy(store, width=3000)
    assert {path: path.read_bytes() for path in (run_folder(store, name) / "checkpoints").iterdir()} == before
    assert only_run(store).state == "failed"
    resumed = fit_toy(store, width=3000)
    assert [session.first_step for session in resumed.sessions] == [0, 4, 4]
    unbroken = ending(store, name)
    shutil.rmtree(run_folder(store, name))
    fit_toy(store, width=3000)
    assert_same_ending(unbroken, ending(store, name))


def test_two_processes_cannot_train_one_run(store: Path) -> None:
    process = driver({"store": str(store), "is_chatty": True, "fault": {"pause_s": 0.5}})
    try:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step"))
        with pytest.raises(LockedError, match="being trained by another process"):
            fit_toy(store)
    finally:
        process.kill()
        process.communicate()
    assert fit_toy(store, train={"save_every": 12}).state == "done", "a killed holder frees the lock"


def test_what_cannot_work_is_refused_in_one_line_before_anything_is_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = build_store(tmp_path / "poor", with_media=False, skipped_features={"landmarks": "no model file"})
    lonely = build_store(tmp_path / "lonely", num_subjects=1, num_frames=(6,), thresholds={"quality_valid_share": {}})  # type: ignore[dict-item]
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cases: list[tuple[type[TalksetError], str, Any]] = [
        (PreflightError, "toy gan needs feature 'landmarks'.*no model file", lambda: fit_toy(poor.store)),
        (WeightsError, "'vgg19' not found", lambda: fit_toy(store, needs=("vgg19",))),
        (ConfigError, "toy gan: 6 items do not fill one batch of 7", lambda: fit_toy(store, train={"batch_size": 7})),
        (ConfigError, "no split|no clip fits|val", lambda: fit_toy(lonely.store, train={"batch_size": 1})),
        (ConfigError, "no snapshot '77'", lambda: fit_toy(store, snapshot="77")),
        (ConfigError, "toy has no stage 'nothing'; there are gan, after", lambda: stages.find("toy", "nothing")),
    ]
    for kind, text, call in cases:
        with pytest.raises(kind, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list_runs(store) == []


def test_a_card_that_lacks_a_field_fails_the_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = stages.find("toy", "gan")
    purpose = gan.__doc__
    monkeypatch.setattr(gan, "__doc__", "")
    with pytest.raises(PreflightError, match="it lacks: purpose"):
        fit_toy(store)
    assert only_run(store).state == "failed"
    monkeypatch.setattr(gan, "__doc__", purpose)
    record = fit_toy(store)
    assert (record.state, record.sessions[1].first_step) == ("done", 12)
    card = (run_folder(store, record.id) / "README.md").read_text()
    assert str(purpose).splitlines()[0] in card


# ---- other data


def test_a_run_goes_on_with_other_data_only_when_that_is_allowed_and_records_it(store: Path) -> None:
    """T-06."""
    first = fit_toy(store)
    second = build_store(store, clips_per_subject=8, num_frames=(6, 7, 8))
    options: dict[str, Any] = {"continue_from": first.id}
    with pytest.raises(ConfigError, match=r"trained on snapshot 1 .*does not continue on snapshot 2 .*recorded"):
        fit_toy(store, train={"max_steps": 15}, options=options)
    options["allow_dataset_change"] = True
    with pytest.raises(ConfigError, match=r"has done 12 steps: set train\.max_steps to more"):
        fit_toy(store, options=options)
    record = fit_toy(store, train={"max_steps": 15}, options=options)
    assert record.id not in (first.id, fit_toy(store, train={"max_steps": 15}).id)
    begun = record.key.continued_from
    assert begun is not None
    assert (begun.run, begun.snapshot, begun.step) == (first.id, first.key.snapshot, 12)
    assert record.key.snapshot == second.id != begun.snapshot
    assert (record.sessions[0].first_step, record.sessions[0].resumed_from) == (12, begun.sha256)
    assert fit_toy(store, train={"max_steps": 15}, options=options) == record
    assert first.key.snapshot in (run_folder(store, record.id) / "README.md").read_text()
    with pytest.raises(ConfigError, match="no run 'nothing' of toy gan"):
        fit_toy(store, options={"continue_from": "nothing"})


def test_continuing_on_the_same_data_equals_a_longer_run(store: Path) -> None:
    short = fit_toy(store, train={"val_every": 100})
    longer = fit_toy(store, train={"max_steps": 17, "val_every": 100}, options={"continue_from": short.id})
    whole = fit_toy(store, train={"max_steps": 17, "val_every": 100})
    ours, theirs = ending(store, longer.id), ending(store, whole.id)
    assert all(torch.equal(value, theirs["tensors"][name]) for name, value in ours["tensors"].items())


def test_a_state_moved_here_from_another_run_is_refused(store: Path) -> None:
    first = fit_toy(store)
    build_store(store, clips_per_subject=7, num_frames=(6, 7, 8))
    with fault_at(1, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        fit_toy(store)
    (second,) = (run for run in list_runs(store) if run.id != first.id)
    shutil.copytree(run_folder(store, first.id) / "checkpoints", run_folder(store, second.id) / "checkpoints")
    with pytest.raises(ConfigError, match=f"belongs to snapshot {first.key.snapshot}"):
        fit_toy(store)


# ---- several processes


PLAIN = {"has_noise": False}  # what is random differs from rank to rank


@pytest.fixture(scope="module")
def spread(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store where two ranks fitted in the same processes: the default run, one without noise, one that ends early."""
    store = shutil.copytree(small_store, tmp_path_factory.mktemp("spread") / "store")
    code, _, err = drive({"store": str(store), "ranks": 2, "more": [PLAIN, PLAIN | STOPPED]})
    assert code == 0, err
    return store


def hashes(store: Path, run: str) -> set[str]:
    """Of the weights of both ranks."""
    return {(store / f"{run}-rank-{rank}").read_text() for rank in (0, 1)}


def test_two_ranks_learn_what_one_learns(store: Path, spread: Path) -> None:
    """gloo: equal among the ranks bit for bit, equal to one process up to rounding; resumed by another number."""
    alone = fit_toy(store, **PLAIN)
    assert len(hashes(spread, alone.id)) == 1
    together = load_run(spread, alone.id)
    assert together is not None
    assert [session.num_ranks for session in together.sessions] == [2]
    ends = [ending(store, alone.id), ending(spread, alone.id)]
    shutil.rmtree(run_folder(store, alone.id))
    with fault_at(5, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        fit_toy(store, **PLAIN)
    code, _, err = drive({"store": str(store), "ranks": 2, "changes": PLAIN})
    assert code == 0, err
    assert [(session.first_step, session.num_ranks) for session in only_run(store).sessions] == [(0, 1), (4, 2)]
    ends.append(ending(store, alone.id))
    for other in ends[1:]:
        assert other["plain"]["sampler"] == ends[0]["plain"]["sampler"]
        for name, value in ends[0]["tensors"].items():
            torch.testing.assert_close(other["tensors"][name], value, rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(other["lines"], ends[0]["lines"], strict=True):
            assert ours["values"] == pytest.approx(theirs["values"], rel=1e-4)


def test_ranks_end_together_when_the_learner_of_the_first_is_finished(store: Path, spread: Path) -> None:
    alone = fit_toy(store, **PLAIN, **STOPPED)
    together = load_run(spread, alone.id)
    assert together is not None
    assert (together.state, together.sessions[0].last_step, together.sessions[0].num_ranks) == ("done", 5, 2)
    assert len(hashes(spread, alone.id)) == 1
    for name, value in ending(store, alone.id)["tensors"].items():
        torch.testing.assert_close(ending(spread, alone.id)["tensors"][name], value, rtol=1e-4, atol=1e-6)


def test_a_killed_rank_is_restarted_and_changes_nothing(store: Path, spread: Path, unbroken: dict[str, Any]) -> None:
    """T-02, with noise, dropout and batch norm: torchrun starts both ranks again, they resume and end as unbroken."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    fault = {"kill_step": 6, "rank": 1, "once": str(store / "killed")}
    code, _, err = drive({"store": str(store), "fault": fault}, torchrun)
    assert code == 0, err
    record = only_run(store)
    assert (record.id, record.state) == (unbroken["id"], "done")
    assert [(session.first_step, session.num_ranks) for session in record.sessions] == [(0, 2), (4, 2)]
    assert len(hashes(store, record.id) | hashes(spread, record.id)) == 1
    assert_same_ending(ending(store, record.id), ending(spread, record.id))


def test_the_lock_is_one_for_all_who_ask(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a.lock", "taken"):
        with pytest.raises(LockedError, match="taken"), exclusive(tmp_path / "a.lock", "taken"):
            pass
        with exclusive(tmp_path / "b.lock", "taken"):
            pass
    with exclusive(tmp_path / "a.lock", "taken"):
        pass
    with pytest.raises(PreflightError, match="cannot be locked"), exclusive(tmp_path, "taken"):
        pass
