"""Frames as images."""

import numpy as np
import torch

from models.edtalk.data.images import image_of


def test_bytes_become_minus_one_to_one_and_channels_come_first() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[1, 2] = (255, 51, 204)
    image = image_of(frame, 4)
    assert (image.shape, image.dtype) == ((3, 4, 4), torch.float32)
    torch.testing.assert_close(image[:, 1, 2], torch.tensor([1.0, -0.6, 0.6]))
    assert (image[:, 0] == -1).all()


def test_other_sizes_are_resized_without_aliasing() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = image_of(stripes, 16)
    assert small.shape == (3, 16, 16)
    assert small[:, 2:-2, 2:-2].abs().max() < 0.05, "fine stripes become grey"
