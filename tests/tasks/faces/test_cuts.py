"""Cuts and flashes on synthetic images, at every place of a block."""

import numpy as np
import pytest

from tasks.faces.cuts import CutFinder

RNG = np.random.default_rng(0)
SCENE_A = RNG.integers(0, 256, (72, 96), np.uint8)
SCENE_B = RNG.integers(0, 256, (72, 96), np.uint8)
WHITE = np.full((72, 96), 255, np.uint8)


def _find(frames, block=25):
    finder = CutFinder(22.0, 3)
    parts = [finder.push(frames[i : i + block]) for i in range(0, len(frames), block)]
    return tuple(np.concatenate([getattr(p, name) for p in parts]) for name in ("is_cut", "is_flash", "is_pending"))


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("at", range(18, 32))
def test_short_flashes_are_no_cuts_wherever_the_block_ends(at, length):
    frames = [SCENE_A] * at + [WHITE] * length + [SCENE_A] * 20
    is_cut, is_flash, is_pending = _find(frames)
    assert not is_cut.any()
    assert set(np.flatnonzero(is_flash | is_pending)) == set(range(at, at + length))


def test_a_longer_interruption_is_two_cuts():
    is_cut, is_flash, _ = _find([SCENE_A] * 5 + [WHITE] * 4 + [SCENE_A] * 10)
    assert np.flatnonzero(is_cut).tolist() == [5, 9]
    assert not is_flash.any()


@pytest.mark.parametrize("at", range(1, 50))
def test_every_cut_is_reported_once_and_at_most_three_frames_late(at):
    is_cut, is_flash, is_pending = _find([SCENE_A] * at + [SCENE_B] * 30)
    reported = np.flatnonzero(is_cut).tolist()
    assert len(reported) == 1
    assert at <= reported[0] <= at + 3
    assert np.flatnonzero(is_pending).tolist() == list(range(at, reported[0]))
    assert not is_flash.any()


@pytest.mark.parametrize("block", [1, 2, 3, 4, 7, 25, 60])
def test_a_cut_is_found_however_frames_are_split(block):
    is_cut, _, _ = _find([SCENE_A] * 10 + [WHITE] * 2 + [SCENE_A] * 10 + [SCENE_B] * 20, block)
    reported = np.flatnonzero(is_cut)
    assert len(reported) == 1
    assert 22 <= reported[0] <= 25


def test_flash_right_before_a_cut():
    is_cut, _, _ = _find([SCENE_A] * 5 + [WHITE] + [SCENE_B] * 15)
    assert np.flatnonzero(is_cut).tolist() == [5, 6]


def test_another_frame_size_is_a_cut():
    is_cut, _, _ = _find([SCENE_A] * 5 + [SCENE_A[:, :80]] * 10)
    assert np.flatnonzero(is_cut).tolist() == [5]


def test_the_first_frame_and_an_empty_block_are_nothing():
    finder = CutFinder(22.0, 3)
    assert finder.push([]).is_cut.shape == (0,)
    assert not finder.push([SCENE_A]).is_cut.any()


@pytest.mark.parametrize("name", ["cropped_256_24fps_fastmotion.mov", "cropped_256_30fps_noaudio.mp4"])
def test_fast_motion_is_no_cut(grays, name):
    assert not _find(grays(name, 380))[0].any()


def test_spliced_clips_of_similar_dark_scenes_are_cut(grays):
    dark = [gray[::2, ::2] for gray in grays("surprise_512_25fps_3s.mp4", 100)[:20]]
    assert np.flatnonzero(_find(grays("cropped_256_24fps_fastmotion.mov", 100)[60:70] + dark)[0]).tolist() == [10]
