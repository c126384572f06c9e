"""Stored frames as the images that the networks take."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def image_of(frame: NDArray[np.uint8], size_px: int) -> Tensor:
    """[H, H, 3] uint8 RGB -> [3, S, S] float32 -1..1, resized where H is not S."""
    image = torch.from_numpy(frame).permute(2, 0, 1).float().div_(127.5).sub_(1)
    if image.shape[-1] == size_px:
        return image
    return functional.interpolate(image[None], (size_px, size_px), mode="bilinear", antialias=True)[0]
