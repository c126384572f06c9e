"""Tracks of names over time; lengths, smoothing, intensity."""

import numpy as np
import pytest
import torch

from models.edtalk.inference.options import parse_keyframes
from models.edtalk.inference.tracks import (
    DROPPED_FRAMES,
    fit_length,
    frame_order,
    intensified,
    keyframe_codes,
    relative,
    smooth,
)


def ramp(num: int, num_codes: int = 2) -> torch.Tensor:
    return torch.arange(float(num))[:, None].repeat(1, num_codes)


# ---- smoothing


def test_constant_codes_stay_as_they_are_up_to_the_ends() -> None:
    codes = torch.tensor([[3.0, -2.0]]).repeat(7, 1)
    torch.testing.assert_close(smooth(codes), codes)


def test_smoothing_is_a_gaussian_of_sigma_one_over_three_frames() -> None:
    impulse = torch.zeros(7, 1)
    impulse[3] = 1
    gauss = np.exp(-0.5 * np.array([1.0, 0.0, 1.0]))
    expected = np.zeros(7)
    expected[2:5] = gauss / gauss.sum()
    np.testing.assert_allclose(smooth(impulse)[:, 0], expected, atol=1e-6)


def test_the_first_frame_is_its_own_neighbour() -> None:
    codes = torch.tensor([[1.0], [0.0], [0.0]])
    assert smooth(codes)[0, 0] == pytest.approx(0.274069 + 0.451863, abs=1e-5)
    assert smooth(torch.tensor([[5.0]])).tolist() == [[pytest.approx(5.0)]]


# ---- lengths


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("hold", [0, 1, 2, 2, 2, 2, 2, 2]),
        ("mirror", [0, 1, 2, 1, 0, 1, 2, 1]),
        ("mirror-drop-tail", [0, 1, 2, 1, 0, 1, 2, 1]),
    ],
)
def test_a_short_video_is_held_or_runs_back_and_forth(rule, expected: list[int]) -> None:
    assert frame_order(3, 8, rule).tolist() == expected
    assert frame_order(3, 2, rule).tolist() == [0, 1]
    assert frame_order(1, 3, rule).tolist() == [0, 0, 0]
    assert frame_order(2, 4, rule).tolist() == ([0, 1, 1, 1] if rule == "hold" else [0, 1, 0, 1])


def test_the_tail_is_dropped_when_there_is_more() -> None:
    assert DROPPED_FRAMES == 20
    assert frame_order(23, 6, "mirror-drop-tail").tolist() == [0, 1, 2, 1, 0, 1]
    assert frame_order(20, 25, "mirror-drop-tail").max() == 19, "not longer than the tail: all of it is used"
    assert frame_order(21, 5, "mirror-drop-tail").tolist() == [0] * 5
    assert frame_order(100, 80, "mirror-drop-tail").tolist() == list(range(80))


def test_no_jump_is_larger_than_a_frame() -> None:
    for num_given in (2, 3, 17, 40):
        assert np.abs(np.diff(frame_order(num_given, 500, "mirror"))).max() == 1


def test_tracks_are_fitted_and_single_rows_stay() -> None:
    assert fit_length(ramp(3), 5, "hold")[:, 0].tolist() == [0, 1, 2, 2, 2]
    assert fit_length(ramp(3), 5, "mirror")[:, 1].tolist() == [0, 1, 2, 1, 0]
    assert fit_length(ramp(1), 5, "hold").shape == (1, 2)


# ---- names over time


def test_codes_go_straight_from_keyframe_to_keyframe() -> None:
    known = {"happy": torch.tensor([[1.0, 0.0]]), "sad": torch.tensor([[0.0, 2.0]])}
    own = torch.tensor([[0.0, 0.0]])
    found = keyframe_codes(parse_keyframes("0.2:happy, 0.4:sad*0.5, 0.6:own"), known.__getitem__, own, 25)
    assert found.shape == (25, 2)
    for frame, expected in {0: (1, 0), 5: (1, 0), 6: (0.8, 0.2), 10: (0, 1), 15: (0, 0), 24: (0, 0)}.items():
        np.testing.assert_allclose(found[frame], expected, atol=1e-6)
    assert np.abs(np.diff(found.numpy(), axis=0)).max() <= 0.2 + 1e-6
    assert keyframe_codes(parse_keyframes("happy"), known.__getitem__, own, 25).tolist() == [[1.0, 0.0]]


def test_intensity_is_how_far_the_portrait_goes() -> None:
    codes, own = torch.tensor([[2.0, 2.0], [4.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert intensified(codes, own, 1) is codes
    assert intensified(codes, own, 0).tolist() == [[1, 0], [1, 0]]
    assert intensified(codes, own, 2).tolist() == [[3, 4], [7, 0]]


def test_relative_driving_adds_changes_to_the_portrait() -> None:
    codes, own = torch.tensor([[1.0, 5.0], [3.0, 4.0], [1.0, 5.0]]), torch.tensor([[10.0, 20.0]])
    assert relative(codes, own).tolist() == [[10, 20], [12, 19], [10, 20]]
