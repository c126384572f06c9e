"""The gate: every reason for and against, on made-up facts; and what it reads out of a real snapshot."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.pipeline.gate import LastTraining, MachineResources, SnapshotFacts, facts_of, should_train
from storage.catalog import Threshold, TrainingRule
from tests.synthetic_store import build_store

NOW = SnapshotFacts(
    "b" * 64, True, 100, 2, 1000, 5.0, 20, frozenset(f"clip{n}" for n in range(1000)), {"quality_blur": 0.3}
)
POLICY = TrainingRule(
    systems=["edtalk"], device="any", min_clips=1000, min_hours=5.0, min_subjects=20, max_failed_share=0.02,
    min_change=0.1, min_free_gib=5, quality={"quality_blur": Threshold(max=0.3)},
)  # fmt: skip
MACHINE = MachineResources(has_cuda=False, free_gib=5.0)


def last(num_common: int, **given) -> LastTraining:
    """A snapshot of as many clips, of which so many are the same."""
    clips = frozenset(f"clip{n}" for n in range(1000 - num_common, 2000 - num_common))
    return LastTraining(replace(NOW, snapshot="a" * 64, clips=clips), "a" * 64, **given)


def test_first_training_of_a_snapshot_that_is_just_good_enough() -> None:
    decision = should_train(NOW, None, POLICY, MACHINE)
    assert decision.is_go
    assert decision.reasons == ("1000 clips, 5.00 h, 20 subjects", "never trained before")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_closed": False}, "the accounts of the snapshot do not close"),
        ({"num_failed": 3}, "3.0% of the sources failed, at most 2.0% may"),
        ({"num_clips": 999}, "999 clips, 1000 are needed"),
        ({"hours": 4.999}, "4.999 h, 5 h are needed"),
        ({"num_subjects": 19}, "19 subjects, 20 are needed"),
        ({"medians": {"quality_blur": 0.31}}, "median quality_blur is 0.31, at most 0.3 is wanted"),
        ({"medians": {}}, "no clip has the score quality_blur"),
    ],
)
def test_each_fact_alone_stands_against(change, reason) -> None:
    decision = should_train(replace(NOW, **change), None, POLICY, MACHINE)
    assert (decision.is_go, decision.reasons) == (False, (reason,))


@pytest.mark.parametrize(
    ("machine", "policy", "reason"),
    [
        (replace(MACHINE, free_gib=4.9), {}, "4.9 GiB are free, 5 GiB are needed"),
        (MACHINE, {"device": "cuda"}, "no GPU here (training.device is cuda; any would allow the CPU)"),
        (replace(MACHINE, missing=("stage: no weights",)), {}, "stage: no weights"),
        (
            MACHINE,
            {"quality": {"quality_blur": Threshold(min=0.4)}},
            "median quality_blur is 0.3, at least 0.4 is wanted",
        ),
    ],
)
def test_missing_resources_stand_against(machine, policy, reason) -> None:
    decision = should_train(NOW, None, POLICY.model_copy(update=policy), machine)
    assert (decision.is_go, decision.reasons) == (False, (reason,))


def test_all_reasons_are_reported_at_once() -> None:
    decision = should_train(replace(NOW, num_clips=1, is_closed=False), None, POLICY, replace(MACHINE, free_gib=0))
    assert len(decision.reasons) == 3


def test_change_since_the_last_training_decides() -> None:
    # of 1000 + 1000 clips, `common` are in both: 2 (1000 - common) of 2000 - common differ
    assert not should_train(NOW, last(950), POLICY, MACHINE).is_go
    assert "9.5% of the clips differ" in should_train(NOW, last(950), POLICY, MACHINE).reasons[0]
    decision = should_train(NOW, last(940), POLICY, MACHINE)
    assert decision.is_go
    assert decision.reasons[1] == "11% of the clips are other ones"


def test_the_same_snapshot_is_not_trained_twice_nor_tried_again_after_a_failure() -> None:
    same = LastTraining(NOW, NOW.snapshot)
    assert should_train(NOW, same, POLICY, MACHINE).reasons == ("already trained on this snapshot",)
    failed = replace(same, has_failed=True)
    assert should_train(NOW, failed, POLICY, MACHINE).reasons == ("training on this snapshot has failed before",)


def test_a_snapshot_that_gc_has_taken_counts_as_wholly_different() -> None:
    assert should_train(NOW, LastTraining(None, "a" * 64), POLICY, MACHINE).is_go


def test_facts_are_those_of_the_tables(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, with_trouble=True)
    facts = facts_of(snapshot)
    kept = [row for row in snapshot.clip_table.to_pylist() if row["is_kept"]]
    assert facts.snapshot == snapshot.id
    assert facts.is_closed
    assert (facts.num_clips, facts.num_subjects) == (len(kept), len({row["subject"] for row in kept}))
    assert facts.clips == {row["clip"] for row in kept}
    assert facts.hours == pytest.approx(sum(row["num_frames"] for row in kept) / 25 / 3600, rel=1e-3)
    sources = snapshot.source_table.to_pylist()
    assert facts.num_failed == sum(row["state"] == "failed" for row in sources) > 0
    assert facts.num_sources == len(sources)
    scores = sorted(row["quality_face_size_px"] for row in kept)
    middle = len(scores) // 2
    expected = scores[middle] if len(scores) % 2 else (scores[middle - 1] + scores[middle]) / 2
    assert facts.medians["quality_face_size_px"] == pytest.approx(expected)
