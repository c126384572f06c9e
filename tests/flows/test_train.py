"""What `talkset train` and the deployment ask of a single stage, on the toy system; and which wishes are unclear."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import models
from flows import train as module
from flows.train import train_stages
from flows.train_options import Wishes
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


def trained(snapshot: Snapshot, stage: str, **wishes: Any) -> dict[str, RunRecord]:
    """Stage -> record."""
    answer = train_stages("toy", snapshot.id, "smoke", [stage], "cpu", True, Wishes(**wishes))
    records = {line["stage"]: load_run(snapshot.store, line["run"]) for line in answer["stages"]}
    return {name: record for name, record in records.items() if record}


def test_wishes_are_for_the_stage_that_is_named_not_for_those_before_it(snapshot: Snapshot) -> None:
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
    wishes = {"settings": {"gan.train.max_steps": 14}, "continue_from": first.id}
    with pytest.raises(ConfigError, match="does not continue on snapshot 2"):
        trained(second, "gan", **wishes)
    record = trained(second, "gan", **wishes, allow_dataset_change=True)["gan"]
    assert (record.key.snapshot, record.sessions[0].first_step, record.model().step) == (second.id, 12, 14)


def test_the_flow_asks_the_same_and_shows_its_stages(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server: what the flow's body and its task hand on."""
    asked: list[tuple[Any, ...]] = []
    shown: dict[str, str] = {}
    body = module.fit.fn

    def fit(*given: Any) -> RunRecord:
        asked.append(given)
        return body(*given)

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "run_logger", logging.getLogger)
    monkeypatch.setattr(module, "create_markdown_artifact", lambda text, key, description: shown.update({key: text}))
    first = trained(snapshot, "gan")["gan"]
    answer = module.train.fn(
        "toy", snapshot.id, "smoke", ["gan"], "cpu", True, settings={"gan.train.max_steps": 13}, continue_from=first.id,
        allow_dataset_change=True,
    )  # fmt: skip
    assert (asked[0][4].train.max_steps, asked[0][-2:]) == (13, (True, first.id))
    assert answer["stages"][0]["step"] == 13
    assert f"`{answer['stages'][0]['run']}` | done | 13 |" in shown["training-toy"]


def test_the_deployment_describes_every_wish() -> None:
    described: Mapping[str, Any] = module.train.parameters.properties
    for name in ("settings", "published", "continue_from", "allow_dataset_change"):
        assert described[name]["description"]
        assert name not in module.train.parameters.required


@pytest.mark.parametrize(
    ("stages", "wishes", "words"),
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
def test_what_is_unclear_is_refused_before_anything_is_trained(
    snapshot: Snapshot, stages: list[str] | None, wishes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        train_stages("toy", snapshot.id, "smoke", stages, "cpu", True, Wishes(**wishes))
    assert "\n" not in str(caught.value)
    assert list_runs(snapshot.store) == []
