"""Squares of images and of long shots against those of the training clips that they might be, closed forms and real."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from storage.catalog import CropRule
from tasks.faces import dlib
from tasks.faces.track import FaceTracker
from tasks.geometry import crop_square, face_box
from tasks.media.video import iter_slots
from tasks.portrait.framing import CLIP_FRAMES, shot_square, still_square

Square = tuple[int, int, int]
RULE, TIGHT = CropRule(), CropRule(margin=0.0)


def standing(centres: np.ndarray, size: float = 100.0) -> np.ndarray:
    """[N, 4] boxes of one size about centres [N, 2]."""
    return np.concatenate([centres - size / 2, centres + size / 2], axis=1).astype(np.float32)


def nodding(num_frames: int) -> np.ndarray:
    """[N, 4] boxes 100 wide that go 6 px to each side within a second: in five seconds their union is 112 wide."""
    sway = 6 * np.sin(np.arange(num_frames) / 25 * 2 * np.pi + 0.25)
    return standing(np.stack([300 + sway, np.full(num_frames, 200.0)], axis=1))


def centre(square: Square) -> np.ndarray:
    x0, y0, side = square
    return np.array([x0, y0]) + (side - 1) / 2


def test_an_image_is_framed_as_a_clip_of_a_head_that_moves_as_usual() -> None:
    clip = crop_square(nodding(125), RULE)
    still = still_square(standing(np.array([[300.0, 200.0]]))[0], RULE)
    assert np.abs(np.subtract(still, clip)).max() <= 1
    assert still[2] == pytest.approx(134.4, abs=1)
    assert still_square(np.array([10.0, 20, 30, 140]), TIGHT) == crop_square(
        np.array([[8.8, 12.8, 31.2, 147.2]]), TIGHT
    )


@pytest.mark.parametrize("num_frames", [1, 40, CLIP_FRAMES])
def test_up_to_five_seconds_a_shot_is_a_clip(num_frames: int) -> None:
    boxes = np.array([100, 80, 250, 220]) + np.random.default_rng(num_frames).uniform(0, 40, (num_frames, 4))
    assert shot_square(boxes, RULE) == crop_square(boxes, RULE)
    boxes[1:3] = np.nan
    assert shot_square(boxes, RULE) == crop_square(boxes, RULE)


def test_a_head_that_stays_fills_a_long_shot_as_its_clips() -> None:
    for num_frames in (126, 250, 1499):
        assert np.abs(np.subtract(shot_square(nodding(num_frames), RULE), crop_square(nodding(125), RULE))).max() <= 1


def test_a_head_that_wanders_is_as_large_as_in_its_clips_and_the_middle_of_its_ways_counts() -> None:
    """A minute in which the head goes 600 px aside, which is six times its own width."""
    boxes = nodding(1500) + np.linspace(0, 600, 1500)[:, None] * (1, 0, 1, 0)
    clips = [crop_square(boxes[first : first + 125], RULE) for first in range(0, 1500, 125)]
    square = shot_square(boxes, RULE)
    assert square[2] == pytest.approx(np.median([side for *_, side in clips]), rel=0.02)
    assert crop_square(boxes, RULE)[2] > 4 * square[2]
    np.testing.assert_allclose(centre(square), (600, 200), atol=3)


def test_a_moment_of_haste_changes_no_size() -> None:
    boxes = nodding(1500)
    boxes[700:720] += (0, 90, 0, 90)
    assert shot_square(boxes, RULE)[2] == pytest.approx(shot_square(nodding(1500), RULE)[2], rel=0.01)
    assert crop_square(boxes, RULE)[2] > 1.5 * shot_square(boxes, RULE)[2]


def test_stretches_without_a_face_are_passed_over() -> None:
    boxes = nodding(1000)
    boxes[200:700] = np.nan
    assert np.abs(np.subtract(shot_square(boxes, RULE), shot_square(nodding(1000), RULE))).max() <= 1
    with pytest.raises(ValueError, match="no face box"):
        shot_square(np.full((300, 4), np.nan), RULE)
    with pytest.raises(ValueError, match="no face box"):
        still_square(np.full(4, np.nan), RULE)


# ---- real clips


def tracked(path: Path) -> np.ndarray:
    """[N, 4] boxes of the one face of a video."""
    tracker, slots, parts = FaceTracker(dlib.load()), iter_slots(path), []
    while block := [frame.y.copy() for frame in islice(slots, 25)]:
        parts.append(tracker.push(block).tracks[0].landmarks)
    return face_box(np.concatenate(parts))


SPEAKERS = ("cropped_256_25fps_60s.mp4", "head_shoulders_450_25fps.mp4", "surprise_512_25fps_3s.mp4")


@pytest.mark.parametrize("name", SPEAKERS)
def test_speakers_are_framed_alike_in_images_clips_and_whole_shots(media: Path, name: str) -> None:
    boxes = tracked(media / name)
    firsts = range(0, max(1, len(boxes) - 124), 125)
    clips, whole = [crop_square(boxes[first : first + 125], RULE) for first in firsts], shot_square(boxes, RULE)
    sizes, places = [], []
    for first, clip in zip(firsts, clips, strict=True):
        for box in boxes[first : first + 125 : 5]:
            still = still_square(box, RULE)
            sizes.append(still[2] / clip[2])
            places.append(np.abs(centre(still) - centre(clip)).max() / clip[2])
    # one image may be of an open mouth or a bent head: the usual one counts
    assert np.median(sizes) == pytest.approx(1, abs=0.03)
    assert np.median(places) < 0.03
    assert [whole[2] / clip[2] for clip in clips] == pytest.approx([1] * len(clips), abs=0.05)
    assert max(np.abs(centre(whole) - centre(clip)).max() / clip[2] for clip in clips) < 0.05
