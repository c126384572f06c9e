"""An image of motion codes over time: the true ones in grey, those of a model in red on top."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LANE_PX, WIDTH_PX = 32, 512
NUM_LANES, NUM_CLIPS = 4, 4
_TRUTH, _OUTPUT = (150, 150, 150), (200, 30, 30)
# OpenCV draws at 1/16 pixel, so that small motion is visible.
_SHIFT = 4


def code_curves(truth: Tensor, output: Tensor, inside: Tensor) -> Tensor:
    """Up to four clips below each other, for each the four codes that vary most, a lane per code.

    Args:
        truth, output: [B, T, C].
        inside: [B, T] bool, False behind the end of a clip.

    Returns:
        [3, 128 B, 512] float32 in 0..1, RGB.
    """
    arrays = [values[:NUM_CLIPS].detach().float().cpu().numpy() for values in (truth, output)]
    shown = inside[:NUM_CLIPS].cpu().numpy()
    lanes = [_lanes(wanted[own], made[own]) for wanted, made, own in zip(*arrays, shown, strict=True)]
    return torch.from_numpy(np.concatenate(lanes)).permute(2, 0, 1).float() / 255


def _lanes(truth: NDArray[np.float32], output: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[128, 512, 3] of one clip's codes [N, C]; values run from near the bottom of a lane to near its top."""
    lanes, x = np.full((NUM_LANES, LANE_PX, WIDTH_PX, 3), 255, np.uint8), np.linspace(0, WIDTH_PX - 1, len(truth))
    for lane, code in zip(lanes, np.argsort(-truth.std(axis=0))[:NUM_LANES], strict=False):
        low, high = truth[:, code].min(), truth[:, code].max()
        for values, color in ((truth, _TRUTH), (output, _OUTPUT)):
            # early in training a model's codes may be anywhere
            height = np.nan_to_num((values[:, code] - low) / max(1e-6, high - low)).clip(-10, 10)
            points = np.stack([x, (0.9 - 0.8 * height) * LANE_PX], axis=1) * (1 << _SHIFT)
            cv2.polylines(lane, [np.rint(points).astype(np.int32)], False, color, 1, cv2.LINE_AA, _SHIFT)
    return lanes.reshape(-1, WIDTH_PX, 3)
