"""Pairs: targets against closed forms, choice of takes, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.data.landmark_motion import rest_shape
from models.data.motion_clips import MotionClip, MotionClips
from models.realtalk.alignment import at_frames
from models.realtalk.emotion_pairs import (
    EmotionPairs,
    Pairing,
    intensity_of,
    measure,
    offsets_from,
    transported_residual,
    warped_residual,
)
from storage.errors import ConfigError
from tests.models.motion_samples import clip_list, made_clip

NEUTRAL = made_clip("neutral_001", 60, 1)
OTHER = made_clip("neutral_002", 50, 2)
ANGRY = made_clip("angry_001", 70, 3, "angry", 3)
HAPPY = made_clip("happy_002", 45, 4, "happy", 1)
REST = rest_shape(NEUTRAL.lm3d, NEUTRAL.valid)


def takes() -> MotionClips:
    return clip_list(
        ("A", "angry", ANGRY), ("A", "happy", HAPPY), ("A", "neutral", NEUTRAL), ("A", "neutral", OTHER),
        ("B", "sad", made_clip("sad_001", 40, 5, "sad", 2)),
    )  # fmt: skip


def pairs(seed: int | None = 0, pairing: Pairing = "auto", clips: MotionClips | None = None) -> EmotionPairs:
    return EmotionPairs(clips or takes(), 32, pairing, 0.7, seed)


def test_statistics_move_the_mean_and_stretch_the_spread() -> None:
    found = transported_residual(NEUTRAL, ANGRY, REST)
    moved = (offsets_from(NEUTRAL, REST) + found.offsets)[NEUTRAL.valid]
    goal = offsets_from(ANGRY, REST)[ANGRY.valid]
    np.testing.assert_allclose(moved.mean(axis=0), goal.mean(axis=0), atol=1e-5)
    plain = offsets_from(NEUTRAL, REST)[NEUTRAL.valid]
    gain = goal.std(axis=0) / plain.std(axis=0)
    inner = (gain > 0.55) & (gain < 1.8)
    assert inner.mean() > 0.9
    np.testing.assert_allclose(moved.std(axis=0)[inner], goal.std(axis=0)[inner], rtol=0.05)
    # coordinate by coordinate the motion keeps its course: the mouth still follows the sound
    courses = [np.corrcoef(plain[:, k], moved[:, k])[0, 1] for k in range(0, 204, 17)]
    assert min(courses) > 0.9999
    assert (found.valid == NEUTRAL.valid).all()
    assert not found.is_warped


def test_the_same_sentence_at_another_speed_gives_the_difference_frame_by_frame() -> None:
    places = np.linspace(0, 59, 75)
    smile = np.zeros((68, 3), np.float32)
    smile[48:68] = 0.05
    twin = replace(
        ANGRY,
        lm3d=at_frames(NEUTRAL.lm3d, places).astype(np.float32) + smile,
        valid=np.isfinite(at_frames(NEUTRAL.lm3d, places)).all((1, 2)),
        mel50=np.repeat(at_frames(NEUTRAL.mel50[::2], places), 2, axis=0).astype(np.float32),
    )
    item = pairs(None, "auto", clip_list(("A", "neutral", NEUTRAL), ("A", "angry", twin)))[1]
    assert item["is_warped"]
    error = (item["residual"] - torch.from_numpy(smile).flatten())[item["residual_valid"]]
    assert error.abs().mean() < 0.15 * 0.05
    exact = warped_residual(NEUTRAL, twin, REST, np.linspace(0, 74, 60))
    assert np.nanmax(np.abs(exact.offsets - smile.ravel())[6:-2]) < 0.02


def test_different_sentences_are_not_warped_unless_asked_for() -> None:
    assert not pairs(None, "auto")[0]["is_warped"]
    assert not pairs(None, "statistics")[0]["is_warped"]
    assert pairs(None, "warp")[0]["is_warped"]


def test_neutral_clips_are_items_whose_residual_is_zero() -> None:
    item = pairs()[2]
    assert item["emotion"] == 5
    assert 0 < item["intensity"] <= 1
    assert torch.equal(item["valid"], item["residual_valid"])
    assert not item["residual"][item["valid"]].any()
    assert item["residual"][~item["valid"]].isnan().all()


def test_an_item_is_the_neutral_take_with_the_label_of_the_emotional_one() -> None:
    item = pairs(None)[0]
    assert (item["name"], item["emotion"], item["intensity"]) == ("angry_001", 0, 1)
    rest = rest_shape(np.concatenate([NEUTRAL.lm3d, OTHER.lm3d]), np.concatenate([NEUTRAL.valid, OTHER.valid]))
    np.testing.assert_allclose(item["rest"], rest)
    np.testing.assert_array_equal(item["motion"], offsets_from(NEUTRAL, rest)[:32])
    np.testing.assert_array_equal(item["audio"], NEUTRAL.audio[:64])
    assert pairs(None)[1]["intensity"] == pytest.approx(1 / 3)


def test_subjects_without_neutral_takes_are_left_out() -> None:
    assert [item["name"] for item in (pairs()[k] for k in range(len(pairs())))] == [
        "angry_001", "happy_002", "neutral_001", "neutral_002",
    ]  # fmt: skip


def test_choices_depend_on_seed_epoch_and_index_only() -> None:
    def chosen(seed: int, epoch: int, order: list[int]) -> dict[int, float]:
        found = pairs(seed)
        found.set_epoch(epoch)
        return {index: float(found[index]["audio"].sum()) for index in order}

    assert chosen(0, 2, [0, 1, 2]) == chosen(0, 2, [2, 1, 0])
    partners = {float(pairs(seed)[0]["audio"].sum()) for seed in range(12)}
    assert len(partners) > 3


def test_levels_are_thirds_and_an_unknown_one_is_full() -> None:
    assert [intensity_of(level) for level in (1, 2, 3, 4, 0, -1)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


def test_scales_are_of_valid_frames_and_the_residual_keeps_its_zero() -> None:
    scales = measure(pairs(None), 100)
    items = [pairs(None)[index] for index in range(4)]
    residuals = np.concatenate([item["residual"][item["residual_valid"]] for item in items[:2]])
    np.testing.assert_allclose(scales.residual.std, np.full(204, np.sqrt(np.square(residuals).mean())), rtol=1e-4)
    assert not scales.residual.mean.any()
    motion = np.concatenate([item["motion"][item["valid"]] for item in items])
    np.testing.assert_allclose(scales.motion.mean, motion.mean(axis=0), atol=1e-5)


def faceless(clip: MotionClip) -> MotionClip:
    return replace(clip, valid=np.zeros(len(clip), bool), lm3d=clip.lm3d * np.nan)


def test_without_neutral_or_without_emotion_it_is_said() -> None:
    with pytest.raises(ConfigError, match="no neutral clip"):
        pairs(clips=clip_list(("A", "angry", ANGRY), ("B", "happy", HAPPY)))
    with pytest.raises(ConfigError, match="no neutral clip"):
        pairs(clips=clip_list(("A", "angry", ANGRY), ("A", "neutral", faceless(NEUTRAL))))
    with pytest.raises(ConfigError, match=r"no second emotion.*\(A\)"):
        pairs(clips=clip_list(("A", "neutral", NEUTRAL), ("B", "happy", HAPPY)))
    with pytest.raises(ConfigError, match="emotion"):
        measure(pairs(clips=clip_list(("A", "neutral", NEUTRAL), ("A", "angry", faceless(ANGRY)))), 10)


def test_some_emotions_and_some_faces_may_be_missing() -> None:
    clips = clip_list(("A", "neutral", NEUTRAL), ("A", "angry", faceless(ANGRY)), ("A", "happy", HAPPY))
    found = pairs(clips=clips)
    assert not found[1]["residual_valid"].any()
    assert found[1]["residual"].isnan().all()
    assert found[2]["residual_valid"].any()
    assert torch.isfinite(measure(found, 10).residual.std).all()
