"""The convolution stack: lengths, padding, and which sound a frame hears."""

import pytest
import torch

from models.nn.audio_frames import AudioFrames


@pytest.fixture
def stack() -> AudioFrames:
    torch.manual_seed(0)
    return AudioFrames(6, 4).eval()


@pytest.mark.parametrize("num_frames", [1, 2, 7, 50])
def test_two_rows_make_one_frame(stack: AudioFrames, num_frames: int) -> None:
    rows, inside = torch.randn(3, 2 * num_frames, 6), torch.ones(3, num_frames, dtype=torch.bool)
    assert stack(rows, inside).shape == (3, 4, num_frames)


def test_padding_changes_nothing_inside(stack: AudioFrames) -> None:
    rows = torch.randn(1, 10, 6)
    whole = stack(rows, torch.ones(1, 5, dtype=torch.bool))
    padded = torch.cat([rows, torch.full((1, 6, 6), 7.0)], dim=1)
    torch.testing.assert_close(stack(padded, torch.arange(8)[None] < 5)[:, :, :5], whole)


def test_a_frame_hears_two_rows_to_either_side_of_its_first(stack: AudioFrames) -> None:
    rows = torch.randn(1, 40, 6, requires_grad=True)
    stack(rows, torch.ones(1, 20, dtype=torch.bool))[0, :, 10].sum().backward()
    assert rows.grad is not None
    heard = rows.grad[0].abs().sum(1).nonzero().flatten().tolist()
    assert heard == [18, 19, 20, 21, 22]
