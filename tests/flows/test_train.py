"""`talkset train` and the deployment on single stages of the toy system; which combinations of options are rejected."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import models
from flows import train as module
from flows.train import train_stages
from flows.train_options import TrainOptions
from models.training.runs.job import FitRequest
from storage.errors import ConfigError
from storage.runs import RunRecord, list_runs, load_run
from storage.snapshot import Snapshot
from storage.stores import STORES
from tests.models import toy
from tests.synthetic_store import build_store

SIZES = {"clips_per_subject": 6, "num_frames": (6, 7, 8)}


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """Of a known store; there is a system 'toy' with the stages 'gan' and, behind it, 'after'."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, toy.SYSTEMS])
    monkeypatch.setenv(STORES, str(tmp_path))
    return build_store(tmp_path / "synthetic", **SIZES)


def trained(snapshot: Snapshot, stage: str, **options: Any) -> dict[str, RunRecord]:
    """Stage -> record."""
    result = train_stages(TrainOptions("toy", snapshot.id, "smoke", [stage], "cpu", **options))
    records = {line.stage: load_run(snapshot.store, line.run) for line in result.stages}
    return {name: record for name, record in records.items() if record}


def test_options_are_for_the_stage_that_is_named_not_for_those_before_it(snapshot: Snapshot) -> None:
    first = trained(snapshot, "after")
    longer = trained(snapshot, "after", settings={"after.train.max_steps": 5}, continue_from=first["after"].id)
    assert longer["gan"] == first["gan"]
    begun = longer["after"].key.continued_from
    assert begun is not None
    assert (begun.run, begun.step, longer["after"].model().step) == (first["after"].id, 3, 5)
    assert len(list_runs(snapshot.store)) == 3


def test_a_run_goes_on_with_another_snapshot_when_that_is_allowed(snapshot: Snapshot) -> None:
    first = trained(snapshot, "gan")["gan"]
    second = build_store(snapshot.store, **SIZES | {"clips_per_subject": 7})
    options = {"settings": {"gan.train.max_steps": 14}, "continue_from": first.id}
    with pytest.raises(ConfigError, match="does not continue on snapshot 2"):
        trained(second, "gan", **options)
    record = trained(second, "gan", **options, allow_dataset_change=True)["gan"]
    assert (record.key.snapshot, record.sessions[0].first_step, record.model().step) == (second.id, 12, 14)


def test_the_flow_asks_the_same_and_shows_its_stages(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server: what the flow's body and its task hand on."""
    asked: list[FitRequest] = []
    shown: dict[str, str] = {}
    body = module.fit.fn

    def fit(request: FitRequest) -> RunRecord:
        asked.append(request)
        return body(request)

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "run_logger", logging.getLogger)
    monkeypatch.setattr(module, "create_markdown_artifact", lambda text, key, description: shown.update({key: text}))
    first = trained(snapshot, "gan")["gan"]
    result = module.train.fn(
        "toy", snapshot.id, "smoke", ["gan"], "cpu", True, settings={"gan.train.max_steps": 13}, continue_from=first.id,
        allow_dataset_change=True,
    )  # fmt: skip
    assert asked[0].config.train.max_steps == 13
    assert (asked[0].allow_dataset_change, asked[0].continue_from) == (True, first.id)
    assert result.stages[0].step == 13
    assert f"`{result.stages[0].run}` | done | 13 |" in shown["training-toy"]


def test_the_deployment_describes_every_option() -> None:
    described: Mapping[str, Any] = module.train.parameters.properties
    for name in ("settings", "published", "continue_from", "allow_dataset_change"):
        assert described[name]["description"]
        assert name not in module.train.parameters.required


@pytest.mark.parametrize(
    ("stages", "options", "words"),
    [
        (None, {"continue_from": "x"}, "name it with --stage, once"),
        (["gan", "after"], {"continue_from": "x"}, "name it with --stage, once"),
        ([], {"allow_dataset_change": True}, "name it with --continue-from"),
        (["gan"], {"settings": {"after.train.max_steps": 3}}, "STAGE.KEY=VALUE; stages of this training: gan"),
        (["gan"], {"settings": {"gan": 3}}, "STAGE.KEY=VALUE"),
        (["gan"], {"settings": {"gan.train.max_step": 3}}, "no setting 'max_step'; the nearest is 'max_steps'"),
        (["gan"], {"settings": {"gan.width.x": 3}}, "no setting 'x'; there are none"),
        (["gan"], {"settings": {"gan.train.max_steps": "many"}}, "gan.train.max_steps=many: "),
        (
            ["gan"],
            {"published": "LIA"},
            "toy: no published weights 'LIA' that a stage could start from; there are none",
        ),
        (["gan"], {"allow_dataset_change": True}, "name it with --continue-from"),
        (["gan"], {"continue_from": "gan-0"}, "no run 'gan-0' of toy gan to continue from"),
    ],
)
def test_ambiguous_options_are_rejected_before_anything_is_trained(
    snapshot: Snapshot, stages: list[str] | None, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        train_stages(TrainOptions("toy", snapshot.id, "smoke", stages or (), "cpu", **options))
    assert "\n" not in str(caught.value)
    assert list_runs(snapshot.store) == []


def test_a_system_that_does_not_exist_is_named_with_those_that_do(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match=r"^no system 'edtakl'; there are .*edtalk.*, toy"):
        train_stages(TrainOptions("edtakl", snapshot.id))
