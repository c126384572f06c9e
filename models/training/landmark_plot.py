"""Image of face shapes: the 68 points as curves, the truth in grey and the output of a model in red on top."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.landmark_motion import NUM_POINTS

TILE_PX = 128
NUM_COLUMNS = 8
_TRUTH, _OUTPUT = (150, 150, 150), (200, 30, 30)
# Parts of the iBUG-68 shape: first and last point, and whether the curve is closed.
_CURVES = ((0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False), (31, 35, False), (36, 41, True),
           (42, 47, True), (48, 59, True), (60, 67, True))  # fmt: skip
# OpenCV draws at 1/16 pixel, so that small motion is visible.
_SHIFT = 4


def landmark_sheet(truth: Tensor, output: Tensor, shown: Tensor) -> Tensor:
    """One row per clip, each with 8 frames spread over those that are shown.

    Args:
        truth, output: [B, T, 68, 3] or [B, T, 204] model units, x right and y up; frames that are not shown may be NaN.
        shown: [B, T] bool.

    Returns:
        [3, B * 128, 1024] float32 in 0..1, RGB; a row without any frame is white.
    """
    points = (x.detach().float().cpu().reshape(*x.shape[:2], NUM_POINTS, 3).numpy() for x in (truth, output))
    pairs = zip(*points, shown.cpu().numpy(), strict=True)
    sheet = np.concatenate([_row(wanted, made, frames) for wanted, made, frames in pairs])
    return torch.from_numpy(sheet).permute(2, 0, 1).float() / 255


def _row(truth: NDArray, output: NDArray, shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[128, 1024, 3], the tiles of one clip."""
    sheet = np.full((TILE_PX, NUM_COLUMNS, TILE_PX, 3), 255, np.uint8)
    frames = np.flatnonzero(shown)
    if len(frames):
        to_tile = _Tile.around(truth[frames])
        for column, frame in enumerate(frames[np.linspace(0, len(frames) - 1, NUM_COLUMNS).astype(int)]):
            tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
            _draw(tile, to_tile(truth[frame]), _TRUTH)
            _draw(tile, to_tile(output[frame]), _OUTPUT)
            sheet[:, column] = tile
    return sheet.reshape(TILE_PX, -1, 3)


class _Tile:
    """Maps x and y of model units to pixels of a tile."""

    def __init__(self, centre: NDArray, scale: float) -> None:
        self.centre, self.scale = centre, scale

    @classmethod
    def around(cls, points: NDArray) -> "_Tile":
        """The map by which points [n, 68, 3] fill nine tenths of a tile."""
        flat = points[..., :2].reshape(-1, 2)
        low, high = flat.min(axis=0), flat.max(axis=0)
        return cls((low + high) / 2, 0.9 * TILE_PX / max(1e-6, float((high - low).max())))

    def __call__(self, points: NDArray) -> NDArray[np.int32]:
        pixels = (points[:, :2] - self.centre) * (self.scale, -self.scale) + (TILE_PX - 1) / 2
        # an untrained model may put points anywhere
        return np.rint(np.nan_to_num(pixels).clip(-TILE_PX, 2 * TILE_PX) * (1 << _SHIFT)).astype(np.int32)


def _draw(tile: NDArray[np.uint8], pixels: NDArray[np.int32], color: tuple[int, ...]) -> None:
    for first, last, is_closed in _CURVES:
        cv2.polylines(tile, [pixels[first : last + 1]], is_closed, color, 1, cv2.LINE_AA, _SHIFT)
