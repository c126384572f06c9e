"""Explain: everything a person may call a source or clip leads to what happened to it."""

import pytest

from storage.errors import REASONS, ConfigError, Reason
from storage.snapshot import Snapshot
from tasks.store.explain import explain
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("store"), with_media=False, with_trouble=True)


def test_all_sources_of_one_content_are_shown_where_the_content_is_named(snapshot: Snapshot) -> None:
    row = next(row for row in snapshot.source_table.to_pylist() if row["state"] == "duplicate_of")
    original = "S000/video/front/angry/level_1/001.mp4"
    assert [source.path for source in explain(snapshot, row["sha256"]).sources] == [original, row["path"]]
    assert [source.path for source in explain(snapshot, original).sources] == [original]
    assert [source.path for source in explain(snapshot, row["path"]).sources] == [row["path"]]


def test_step_meaning_and_what_to_change_come_with_every_reason(snapshot: Snapshot) -> None:
    for row in snapshot.source_table.to_pylist():
        (source,) = explain(snapshot, row["path"]).sources
        assert source.why == (REASONS[Reason(row["reason"])] if row["reason"] else None)
        assert [clip.why is None for clip in source.clips] == [clip.is_kept for clip in source.clips]
    (talk,) = explain(snapshot, "talks/RD_Radio1.mp4").sources
    assert talk.clips[-1].why == REASONS[Reason.TOO_SHORT]


def test_a_clip_is_shown_alone_with_scores_and_the_thresholds_that_judged_it(snapshot: Snapshot) -> None:
    row = next(row for row in snapshot.rows(kept=False) if row["row"] >= 0)
    for name in (row["name"], row["clip"]):
        (source,) = explain(snapshot, name).sources
        (clip,) = source.clips
        assert clip.name == row["name"]
        assert clip.scores["sync_confidence"] == row["sync_confidence"]
        assert clip.thresholds == {"quality_face_size_px": {"min": 60, "max": None},
                                      "quality_valid_share": {"min": 0.8, "max": None}}  # fmt: skip


def test_dropped_clips_and_refused_sources_say_why(snapshot: Snapshot) -> None:
    (talk,) = explain(snapshot, "talks/RD_Radio1.mp4").sources
    assert [clip.reason for clip in talk.clips if not clip.is_kept and clip.row < 0] == ["TOO_SHORT"]
    (misnamed,) = explain(snapshot, "<script>alert(1)</script>.mp4").sources
    assert (misnamed.state, misnamed.reason, misnamed.clips) == ("rejected", "BAD_NAME", ())
    (crashed,) = explain(snapshot, "T003#sad#level_1#003").sources
    assert crashed.state == "failed"
    assert "Input/output error" in crashed.detail


def test_a_duplicate_names_its_original_and_lists_no_clip_twice(snapshot: Snapshot) -> None:
    (copy,) = explain(snapshot, "S000/video/front/angry/level_1/901.mp4").sources
    assert copy.state == "duplicate_of"
    assert copy.clips == ()
    assert "S000/video/front/angry/level_1/001.mp4" in copy.detail


@pytest.mark.parametrize("name", ["nobody", "", "1.mp4", "ont/angry", "\x00"])
def test_an_unknown_name_is_an_error_with_advice(snapshot: Snapshot, name: str) -> None:
    with pytest.raises(ConfigError, match="talkset refresh"):
        explain(snapshot, name)
