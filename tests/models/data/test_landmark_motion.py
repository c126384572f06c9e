"""Measures of face motion against closed forms; nothing that is masked may have an influence."""

import numpy as np
import pytest
import torch

from models.data.landmark_motion import (
    amplitudes,
    decayed_rate,
    eye_opening,
    masked_mean,
    masked_squares,
    rest_shape,
)
from tests.synthetic_store import neutral_face

FACE = np.concatenate([neutral_face(), np.zeros((68, 1))], axis=1)


def test_rest_is_the_mean_of_the_valid_frames() -> None:
    lm3d = np.stack([FACE, FACE + 2, FACE * np.nan])
    np.testing.assert_allclose(rest_shape(lm3d, np.array([True, True, False])), FACE + 1)
    assert not rest_shape(lm3d, np.zeros(3, bool)).any()


def test_amplitude_is_the_root_mean_square_of_the_motion_of_each_region() -> None:
    swing = np.sin(np.linspace(0, 2 * np.pi, 41)[:40])
    lm3d = np.repeat(FACE[None], 41, axis=0)
    lm3d[:40, 48:68, 1] += 3 * swing[:, None]
    lm3d[40] = np.nan
    valid = np.arange(41) < 40
    np.testing.assert_allclose(amplitudes(lm3d, valid), [3 / np.sqrt(2), 0], atol=1e-6)
    assert not amplitudes(lm3d, ~valid & False).any()


def test_eyes_are_0_as_usual_and_minus_1_when_closed_whatever_the_size_of_the_face() -> None:
    lm3d = np.repeat(FACE[None], 7, axis=0)
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        lm3d[4, upper] = lm3d[4, lower]
    lm3d[5] *= 3
    lm3d[6] = np.nan
    opening = eye_opening(lm3d, np.arange(7) < 6)
    np.testing.assert_allclose(opening, [0, 0, 0, 0, -1, 0, 0], atol=1e-6)


def test_masked_mean_of_frames_and_of_points() -> None:
    values = torch.tensor([[[1.0, 3.0], [torch.nan, torch.nan]], [[5.0, 7.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, False], [True, False]])
    assert masked_mean(values, mask) == 4
    assert masked_mean(values.reshape(2, 2, 2, 1), mask) == 4
    assert masked_mean(values, mask & False) == 0


def test_squares_count_valid_frames_and_valid_pairs_only() -> None:
    target = torch.tensor([0.0, 1.0, torch.nan, 2.0, 2.0])[None, :, None]
    output = torch.tensor([1.0, 3.0, 9.0, 2.0, 6.0])[None, :, None].requires_grad_()
    mask = torch.tensor([[True, True, False, True, True]])
    position, velocity = masked_squares(output, target, mask)
    assert position.item() == pytest.approx((1 + 4 + 0 + 16) / 4)
    assert velocity.item() == pytest.approx((1 + 16) / 2)
    (position + velocity).backward()
    assert output.grad is not None
    np.testing.assert_allclose(output.grad.flatten(), [-0.5, 2, 0, -4, 6])


def test_without_a_valid_frame_loss_and_gradient_are_zero() -> None:
    output = torch.ones(1, 3, 2, requires_grad=True)
    position, velocity = masked_squares(output, torch.full((1, 3, 2), torch.nan), torch.zeros(1, 3, dtype=torch.bool))
    (position + velocity).backward()
    assert position == velocity == 0
    assert output.grad is not None
    assert not output.grad.any()


def test_the_learning_rate_rises_and_then_falls_to_a_tenth() -> None:
    assert decayed_rate(1.0, 0, 10, 1000) == pytest.approx(0.1)
    assert decayed_rate(1.0, 4, 10, 10**9) == pytest.approx(0.5)
    assert decayed_rate(2.0, 1000, 10, 1000) == pytest.approx(0.2)
    assert decayed_rate(2.0, 2000, 10, 1000) == pytest.approx(0.02)
