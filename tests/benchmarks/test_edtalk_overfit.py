"""What the benchmark of EDTalk judges on: frames that were not trained on, other mouths that differ most."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import edtalk_overfit
from benchmarks.edtalk_overfit import BLOCK, Clip, Excerpt
from models.data.landmark_motion import MOUTH
from tests.synthetic_store import build_store

NUM_FRAMES = 130
# Blocks 2 and 7 of 12 frames each.
HELD_OUT = [*range(24, 36), *range(84, 96)]


def test_held_out_frames_are_apart_from_those_that_are_seen(tmp_path: Path) -> None:
    whole = build_store(tmp_path / "store", 1, 1, (NUM_FRAMES,), thresholds={})
    (clip,) = whole.clips()
    points = whole.feature(clip, "landmarks", ["landmarks"])["landmarks"]
    frames = [whole.frame(clip, index) for index in range(NUM_FRAMES)]
    for is_held_out, numbers in ((True, HELD_OUT), (False, sorted(set(range(NUM_FRAMES)) - set(HELD_OUT)))):
        part = Excerpt(whole, is_held_out)
        (own,) = part.clips("train")
        assert own.num_frames == len(numbers)
        assert part.clips("val") == []
        assert all(np.array_equal(part.frame(own, i), frames[number]) for i, number in enumerate(numbers))
        for found in (part.feature(own, "landmarks", ["landmarks"]), *part.features([own], "landmarks", ["landmarks"])):
            np.testing.assert_array_equal(found["landmarks"], points[numbers])
    assert min(min(abs(seen - held) for held in (29, 89)) for seen in range(NUM_FRAMES) if seen not in HELD_OUT) > 5
    assert BLOCK == 12


def test_mouths_are_lent_by_those_that_are_opened_most_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edtalk_overfit, "NUM_LENDERS", 2)
    opening = np.array([0.1, np.nan, 0.4, 0.2, 0.9])
    clip = Clip("clip", torch.zeros(3, 3, 8, 8), torch.zeros(5, 3, 8, 8), [], np.zeros((5, 4)), opening)
    frames, lenders = clip.lenders()
    assert frames.tolist() == [0, 2, 3, 4], "a frame without a face neither takes nor lends"
    assert lenders.tolist() == [[4, 2], [4, 0], [4, 2], [0, 3]]


def test_mouth_and_rest_are_means_over_their_own_landmarks() -> None:
    moves = np.full((6, 68), 0.5)
    moves[:, MOUTH] = 2.0
    row = edtalk_overfit._moves_row("EDTalk", [moves[:2], moves[2:]])
    assert (row.figure, row.is_met) == ("4.0x", None), "for information, without a bar"
    assert row.notes == "2.00 and 0.50 px of 256; 6 pairs of frames"


def test_psnr_is_that_of_images_between_minus_one_and_one() -> None:
    still = torch.zeros(1, 3, 4, 4)
    assert edtalk_overfit._psnr_db(still + 0.2, still).item() == pytest.approx(10 * np.log10(4 / 0.04))
