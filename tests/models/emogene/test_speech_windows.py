"""Windows against the clips they are cut from; statistics against numpy's."""

import numpy as np
import pytest
import torch

from models.data.landmark_motion import amplitudes, eye_opening
from models.emogene.speech_windows import SpeechWindows, Target, measure, motion_of
from storage.errors import ConfigError
from tests.models.motion_samples import clip_list, made_clip

LONG, SHORT, ODD = made_clip("long", 40, 1), made_clip("short", 9, 2), made_clip("odd", 21, 3)
CLIPS = clip_list(("A", "", LONG), ("A", "", SHORT), ("B", "", ODD))
USUAL = np.array([0.02, 0.01], np.float32)


def windows(seed: int | None = 0, target: Target = "lm3d") -> SpeechWindows:
    return SpeechWindows(CLIPS, target, 16, USUAL, seed)


def test_motion_is_the_offset_from_the_mean_of_the_clip() -> None:
    motion = motion_of(LONG, "lm3d")
    assert np.isnan(motion[2:4]).all()
    np.testing.assert_allclose(np.nanmean(motion, axis=0), 0, atol=1e-6)
    steps = np.diff(LONG.lm3d.reshape(40, -1), axis=0)
    np.testing.assert_allclose(np.diff(motion, axis=0)[5:], steps[5:], atol=1e-6)
    np.testing.assert_array_equal(motion_of(LONG, "exp"), LONG.exp)


@pytest.mark.parametrize("target", ["lm3d", "exp"])
def test_a_window_holds_rows_of_one_stretch(target: Target) -> None:
    for epoch in range(4):
        cut = windows(target=target)
        cut.set_epoch(epoch)
        item = cut[0]
        first = int(np.flatnonzero((LONG.audio[::2] == item["audio"][0].numpy()).all(1))[0])
        np.testing.assert_array_equal(item["audio"], LONG.audio[2 * first : 2 * first + 32])
        np.testing.assert_array_equal(item["f0_hz"], LONG.f0_hz[2 * first : 2 * first + 32])
        np.testing.assert_array_equal(item["motion"], motion_of(LONG, target)[first : first + 16])
        np.testing.assert_array_equal(item["valid"], LONG.valid[first : first + 16])
        np.testing.assert_array_equal(item["opening"], eye_opening(LONG.lm3d, LONG.valid)[first : first + 16])
        np.testing.assert_allclose(item["amplitudes"], amplitudes(LONG.lm3d, LONG.valid) / USUAL)
        assert item["inside"].all()


def test_a_short_clip_is_padded_and_says_so() -> None:
    item = windows()[1]
    assert item["inside"].tolist() == [True] * 9 + [False] * 7
    assert item["valid"].tolist() == [*SHORT.valid.tolist(), *[False] * 7]
    assert item["motion"][9:].isnan().all()
    assert item["audio"].shape == (32, 80)
    assert not item["audio"][18:].any()


def test_places_depend_on_seed_epoch_and_index_only() -> None:
    def places(seed: int, epoch: int, order: list[int]) -> dict[int, float]:
        cut = windows(seed)
        cut.set_epoch(epoch)
        return {index: float(cut[index]["audio"].sum()) for index in order}

    assert places(0, 3, [0, 2]) == places(0, 3, [2, 0])
    assert len({tuple(places(seed, epoch, [0, 2]).values()) for seed in (0, 1) for epoch in range(4)}) > 5
    assert torch.equal(windows(None)[0]["audio"], torch.from_numpy(LONG.audio[:32]))


def test_statistics_are_those_of_all_valid_frames() -> None:
    found = measure(CLIPS, "lm3d", 10)
    motion = np.concatenate([motion_of(clip, "lm3d")[clip.valid] for clip in (LONG, SHORT, ODD)])
    audio = np.concatenate([clip.audio for clip in (LONG, SHORT, ODD)])
    np.testing.assert_allclose(found.audio.mean, audio.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.audio.std, audio.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.motion.std, np.full(204, np.sqrt(motion.var(axis=0).mean())), rtol=1e-4)
    spreads = [amplitudes(clip.lm3d, clip.valid) for clip in (LONG, SHORT, ODD)]
    np.testing.assert_allclose(found.amplitudes, np.mean(spreads, axis=0), rtol=1e-6)


def test_without_any_face_there_is_nothing_to_learn() -> None:
    faceless = made_clip("none", 9, 4)
    faceless.valid[:] = False
    with pytest.raises(ConfigError, match="face"):
        measure(clip_list(("A", "", faceless)), "exp", 10)
    item = SpeechWindows(clip_list(("A", "", faceless)), "lm3d", 16, USUAL, 0)[0]
    assert (item["amplitudes"] == 1).all()
    assert torch.isfinite(item["opening"]).all()
