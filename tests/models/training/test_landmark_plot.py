"""The picture shows where the curves are, and copes with what is missing."""

import numpy as np
import torch

from models.training.landmark_plot import landmark_sheet
from tests.synthetic_store import neutral_face

FACE = torch.from_numpy(np.concatenate([neutral_face() * (1, -1), np.zeros((68, 1))], axis=1)).float() / 100
TRUTH = FACE.expand(2, 10, 68, 3).clone()
SHOWN = torch.ones(2, 10, dtype=torch.bool)


def red(sheet: torch.Tensor) -> torch.Tensor:
    return (sheet[0] - sheet[1] > 0.3).nonzero()


def test_points_to_the_right_and_up_are_drawn_there() -> None:
    plain = red(landmark_sheet(TRUTH, TRUTH, SHOWN)).float().mean(0)
    moved = red(landmark_sheet(TRUTH, TRUTH + torch.tensor([0.1, 0.2, 0.0]), SHOWN)).float().mean(0)
    assert moved[0] < plain[0] - 5
    assert moved[1] > plain[1] + 2


def test_coordinates_in_a_row_are_the_same_points() -> None:
    sheet = landmark_sheet(TRUTH.flatten(2), TRUTH.flatten(2), SHOWN)
    assert torch.equal(sheet, landmark_sheet(TRUTH, TRUTH, SHOWN))
    assert sheet.shape == (3, 2 * 128, 8 * 128)
    assert 0 <= sheet.min() < sheet.max() == 1


def test_missing_frames_are_not_shown_and_an_empty_row_is_white() -> None:
    truth, shown = TRUTH.clone(), SHOWN.clone()
    truth[0, 5:] = torch.nan
    shown[0, 5:] = False
    shown[1] = False
    sheet = landmark_sheet(truth, TRUTH * torch.inf, shown)
    assert torch.isfinite(sheet).all()
    assert (sheet[:, 128:] == 1).all()
    assert (sheet[:, :128] < 1).any()
