"""Motion of the 68 points of lm3d as EmoGene and RealTalk use it: regions, amplitudes, and means over valid frames.

Motion is the offset of lm3d from a rest shape (the mean of the clip, or of the subject's neutral clips), so identity
is not in it. lm3d and its offsets are in model units; `camera_scale` of face3d turns them into units of 100 mm.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_POINTS = 68
NUM_COORDINATES = 3 * NUM_POINTS
MOUTH = slice(48, 68)
# Brows and both eyes.
UPPER_FACE = (*range(17, 27), *range(36, 48))
# Pairs of points whose distance is a lid gap, and the corners of both eyes.
_LIDS = np.array([(37, 41), (38, 40), (43, 47), (44, 46)])
_EYE_CORNERS = np.array([(36, 39), (42, 45)])


def rest_shape(lm3d: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[68, 3] mean of lm3d [N, 68, 3] over the valid frames; zeros when there are none."""
    if not valid.any():
        return np.zeros((NUM_POINTS, 3), np.float32)
    return lm3d[valid].mean(axis=0, dtype=np.float64).astype(np.float32)


def amplitudes(lm3d: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[2] how much the mouth and the upper face move: root mean square distance from their means, in model units."""
    if not valid.any():
        return np.zeros(2, np.float32)
    motion = lm3d[valid].astype(np.float64)
    motion -= motion.mean(axis=0)
    parts = (motion[:, MOUTH], motion[:, list(UPPER_FACE)])
    return np.array([np.sqrt(np.square(part).sum(-1).mean()) for part in parts], np.float32)


def eye_opening(lm3d: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[N] lid gap over its median in the clip, minus 1: 0 as usual, -1 closed, 0 also where not valid."""
    if not valid.any():
        return np.zeros(len(lm3d), np.float32)
    # Widths do not change with the lids: dividing by them makes the gap independent of the shape model's units.
    gap = _distance(lm3d, _LIDS).mean(axis=1) / _distance(lm3d, _EYE_CORNERS).mean(axis=1)
    return np.where(valid, gap / np.median(gap[valid]) - 1, 0).astype(np.float32)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B, T, ...] over the frames where mask [B, T] holds, in float32; 0 when there are none.

    NaN elsewhere does not show; a gradient, however, has to be protected before anything is made of NaN.
    """
    wide = mask.reshape(*mask.shape, *[1] * (values.dim() - 2)).expand_as(values)
    return torch.where(wide, values.float(), 0.0).sum() / wide.sum().clamp_min(1)


def masked_squares(output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error and mean squared error of the velocity of output and target [B, T, C].

    The velocity, change per frame, counts between two neighbouring frames that are both valid in mask [B, T]. What
    stands in the other frames has no influence, neither on the figures nor on their gradients, NaN included.
    """
    error = (output.float() - target).masked_fill(~mask[..., None], 0)
    change = error[:, 1:] - error[:, :-1]
    return masked_mean(error.square(), mask), masked_mean(change.square(), mask[:, 1:] & mask[:, :-1])


def decayed_rate(rate: float, step: int, warmup_steps: int, decay_steps: int) -> float:
    """Learning rate: linear rise over `warmup_steps`, then falling to a tenth every `decay_steps`."""
    return rate * min(1.0, (step + 1) / max(1, warmup_steps)) * 0.1 ** (step / decay_steps)


def _distance(lm3d: NDArray[np.floating], pairs: NDArray[np.int64]) -> NDArray[np.floating]:
    """[N, P] distances between pairs [P, 2] of points."""
    return np.linalg.norm(lm3d[:, pairs[:, 0]] - lm3d[:, pairs[:, 1]], axis=-1)
