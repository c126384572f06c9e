"""The model card says everything it must, with the numbers of the snapshot and the record."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from models.training.runs.card import data_facts, make_card, render
from storage import weights
from storage.errors import PreflightError
from storage.runs import Continuation, Parent, RunKey, RunRecord, Session
from storage.snapshot import Snapshot
from tests.synthetic_store import build_store

SESSIONS = (
    Session(started_at="2026-01-01T00:00:00+00:00", ended_at="2026-01-01T02:00:00+00:00", first_step=0, num_ranks=2,
            hardware={"device": "cpu"}),
    Session(started_at="2026-01-02T00:00:00+00:00", first_step=5, hardware={"device": "cuda", "gpu": "Fast 1"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """With rejected sources and dropped clips."""
    return build_store(tmp_path_factory.mktemp("card") / "store", with_trouble=True)


def record(snapshot: Snapshot, key: Any = None, **changes: Any) -> RunRecord:
    fields = {
        "system": "toy", "stage": "gan", "stage_version": 1, "snapshot": snapshot.id, "config": {"width": 8},
        "parents": {"first": Parent(run="toy-first-1", sha256="0" * 64)}, "weights": {"vgg19": "1" * 64}, **(key or {}),
    }  # fmt: skip
    about = {
        "id": "toy-gan-abc", "key": RunKey(**fields), "preset": "smoke", "dataset": "synthetic", "snapshot_number": 1,
        "ancestors": (), "code_version": "1.0", "packages_sha256": "2" * 64, "seed": 3, "sessions": SESSIONS,
        "metrics": {"distance": 0.125},
    }  # fmt: skip
    return RunRecord.model_validate({**about, **changes})


def test_data_facts_are_those_of_the_clip_table(snapshot: Snapshot) -> None:
    facts, rows = data_facts(snapshot), snapshot.rows(kept=False)
    for name, split in facts.splits.items():
        own = [row for row in rows if row["is_kept"] and row["split"] == name]
        assert split.clips == len(own) == snapshot.body.splits[name]
        assert split.hours == pytest.approx(sum(row["num_frames"] for row in own) / 25 / 3600)
        assert split.identities == len({row["subject"] for row in own})
        assert sum(split.emotions.values()) == sum(bool(row["emotion"]) for row in own)
    dropped = [row["reason"] for row in rows if not row["is_kept"]]
    rejected = [row["reason"] for row in snapshot.source_table.to_pylist() if row["state"] == "rejected"]
    assert facts.excluded == {reason: (dropped + rejected).count(reason) for reason in dropped + rejected}
    assert {"NO_FACE", "TOO_SHORT"} <= facts.excluded.keys()


def test_a_card_names_data_training_figures_licences_and_misuse(snapshot: Snapshot) -> None:
    made = make_card(record(snapshot), data_facts(snapshot), "Learns a thing.", 40, 17, inherited=("syncnet_v2",))
    text = render(made)
    head, body = text.split("---\n")[1], text.partition("---\n# ")[2] or text
    front = yaml.safe_load(head)
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "distance", "name": "distance", "value": 0.125}]
    assert (result["dataset"]["revision"], result["dataset"]["split"]) == (snapshot.id, "val")
    assert "non-commercial" in front["tags"]
    assert made.cost_h == 4.0
    for part in (
        "Learns a thing.", snapshot.id, "40 steps from stage first of run toy-first-1", "seed 3", "4.000 process hours",
        "gpu Fast 1", "Means over 17 items of split `val`", "| distance | 0.125 |", "NO_FACE 1", "Split by identity",
        f"| vgg19 | {weights.listed()['vgg19'].licence} | no |",
        f"| syncnet_v2 | {weights.listed()['syncnet_v2'].licence} | **yes** |",
        "**Not for commercial use as it stands**, because of syncnet_v2", "## Limits", "## Misuse", "as synthetic",
        "width: 8",
    ):  # fmt: skip
        assert part in body, part


def test_without_third_party_weights_nothing_is_claimed_of_them(snapshot: Snapshot) -> None:
    made = make_card(record(snapshot, {"weights": {}, "parents": {}}), data_facts(snapshot), "Learns.", 1, 1)
    assert "non-commercial" not in render(made)
    assert "1 steps from random weights" in render(made)


def test_a_run_that_continues_another_says_so(snapshot: Snapshot) -> None:
    begun = Continuation(run="toy-gan-0", snapshot="f" * 64, sha256="0" * 64, step=9)
    text = render(make_card(record(snapshot, {"continued_from": begun}), data_facts(snapshot), "Learns.", 10, 1))
    assert f"10 steps from run toy-gan-0, step 9, snapshot {'f' * 64}" in text


def test_figures_of_training_are_not_called_validation(snapshot: Snapshot) -> None:
    made = make_card(record(snapshot, metrics={"train_loss": 1.0}), data_facts(snapshot), "Learns.", 1, 8)
    assert "Means over 8 items of split `train`" in render(made)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("metrics", {"metrics": {}}),
        ("hardware", {"sessions": ()}),
        ("code_version", {"code_version": ""}),
        ("weights.unheard_of", {"key": {"weights": {"unheard_of": "1" * 64}}}),
        ("config", {"key": {"config": {}}}),
    ],
)
def test_a_missing_field_is_named(snapshot: Snapshot, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(PreflightError, match=f"it lacks: .*{field}"):
        make_card(record(snapshot, **changes), data_facts(snapshot), "Learns.", 1, 1)


def test_a_snapshot_without_clips_has_no_card(tmp_path: Path) -> None:
    from storage.catalog import Threshold

    empty = build_store(tmp_path / "store", thresholds={"quality_valid_share": Threshold(min=2.0)}, with_media=False)
    with pytest.raises(PreflightError, match="it lacks: splits"):
        data_facts(empty)
