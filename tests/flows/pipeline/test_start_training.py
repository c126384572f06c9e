"""From a snapshot to decisions and started trainings: what the store's own run records say counts."""

import os
from pathlib import Path

import pytest

from flows.pipeline import start_training
from flows.refresh_options import RefreshOptions
from flows.train import TrainedStage, TrainingResult
from flows.train_options import TrainOptions
from storage.catalog import Dataset, TrainingRule
from storage.records import as_json
from storage.runs import RunKey, RunRecord, Session, save_run
from storage.snapshot import Snapshot
from storage.stores import STORES, find_snapshot
from tests.synthetic_store import build_store

POLICY = TrainingRule(systems=["edtalk"], preset="smoke", stages=["reconstruction"], device="any", min_free_gib=0.1)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return build_store(tmp_path / "store")


def remember(snapshot: Snapshot, state: str, snapshot_id: str | None = None) -> None:
    """A run of EDTalk's first stage on a snapshot that ended like this."""
    key = RunKey(
        system="edtalk", stage="reconstruction", stage_version=1, snapshot=snapshot_id or snapshot.id, config={}
    )
    session = Session(started_at="2026-01-01T00:00:00+00:00", first_step=0, hardware={})
    record = RunRecord(
        id=key.run_id(), key=key, preset="smoke", dataset=snapshot.body.dataset, snapshot_number=snapshot.body.number,
        ancestors=(), code_version="0", packages_sha256="0" * 64, seed=0, state=state, sessions=(session,),
    )  # fmt: skip
    save_run(snapshot.store, record)


@pytest.mark.parametrize(
    ("state", "is_go", "reason"),
    [
        (None, True, "never trained before"),
        ("done", False, "already trained on this snapshot"),
        ("failed", False, "training on this snapshot has failed before"),
        ("interrupted", True, "never trained before"),
        ("running", True, "never trained before"),
    ],
)
def test_what_was_trained_before_decides(snapshot: Snapshot, state, is_go, reason) -> None:
    """An interrupted or killed training is taken up again, a finished or failed one is not repeated."""
    if state:
        remember(snapshot, state)
    decision = start_training.decide(snapshot, POLICY)["edtalk"]
    assert (decision.is_go, decision.reasons[-1]) == (is_go, reason)


def test_a_run_on_a_snapshot_that_is_gone_does_not_stand_in_the_way(snapshot: Snapshot) -> None:
    remember(snapshot, "done", "f" * 64)
    assert start_training.decide(snapshot, POLICY)["edtalk"].is_go


def test_features_and_weights_that_are_missing_are_named(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALKSET_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    policy = POLICY.model_copy(
        update={"preset": "paper", "systems": ["edtalk", "emogene"], "stages": ["reconstruction", "audio2motion"]}
    )
    decisions = start_training.decide(snapshot, policy)
    assert any("weights 'vgg19' not found" in reason for reason in decisions["edtalk"].reasons)
    assert "audio2motion: the snapshot has no face3d" in decisions["emogene"].reasons


def test_without_a_server_training_runs_here_and_finds_the_data_by_id(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(STORES, "/somewhere/else")
    calls = []

    def train_stages(options: TrainOptions) -> TrainingResult:
        calls.append((options, find_snapshot(options.snapshot).store))
        stage = TrainedStage("reconstruction", "edtalk-reconstruction-0123456789ab", "done", {}, "", "", 1)
        return TrainingResult("edtalk", snapshot.id, "synthetic", 1, (stage,))

    monkeypatch.setattr("flows.train.train_stages", train_stages)
    dataset = Dataset.model_validate(
        {**snapshot.body.config, "name": snapshot.body.dataset, "root": "/raw", "training": POLICY}
    )
    options = RefreshOptions(dataset=dataset.name, store=snapshot.store, has_server=False)
    answer = start_training.hand_off(snapshot, dataset, options)
    wanted = TrainOptions("edtalk", snapshot.id, "smoke", ["reconstruction"], is_quiet=options.is_quiet)
    assert calls == [(wanted, snapshot.store)]
    assert answer["edtalk"].action == "trained"
    assert answer["edtalk"].runs == ("edtalk-reconstruction-0123456789ab",)
    assert as_json(answer)["edtalk"].keys() == {"action", "reasons", "runs"}
    assert os.environ[STORES].split(os.pathsep) == [str(snapshot.store), "/somewhere/else"]
    remember(snapshot, "done")
    again = start_training.hand_off(snapshot, dataset, options)
    assert as_json(again)["edtalk"] == {"action": "not started", "reasons": ["already trained on this snapshot"]}
    assert len(calls) == 1
