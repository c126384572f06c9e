"""Lids: closed eyes for a still, uncovered from the upper lid downwards."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.demo.portrait import Portrait

_LASH_RGB = (62.0, 40.0, 34.0)
_SHADE = 0.9  # a lid lies in the shadow of the brow
_MIRROR_IOD = 0.05  # below the lower lid: clear of its lashes


def closed_eyes(portrait: Portrait) -> NDArray[np.uint8]:
    """[H, W, 3] canvas on which the skin below each eye, mirrored upwards and shaded, stands in for a lowered lid."""
    closed, iod = portrait.rgb.copy(), portrait.iod_px
    for lids in portrait.lids:
        (x0, y0), (x1, y1) = (lids.min(axis=0) - 0.15 * iod).astype(int), (lids.max(axis=0) + 0.05 * iod).astype(int)
        x, y = (values.astype(np.float32) for values in np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)))
        mirror = _parabola(lids[[0, 3, 2]], np.clip(x[0], lids[0, 0], lids[2, 0])) + np.float32(_MIRROR_IOD * iod)
        skin = cv2.remap(portrait.rgb, x, mirror + np.abs(mirror - y), cv2.INTER_LINEAR)
        closed[y0:y1, x0:x1] = np.rint(cv2.GaussianBlur(skin, (0, 0), 0.02 * iod) * _SHADE).astype(np.uint8)
    return closed


class LidPlane:
    """One eye of one plane of a portrait: luma (step 1) or chroma (step 2 canvas px per plane px).

    Args:
        lids: the eye's entry of `portrait.lids`.
        still, closed: the plane of the still and of `closed_eyes`, [h, w] or [h, w, 2] uint8.
        lash: value of the lash colour in this plane.
        step: canvas px per plane px.
        portrait: The portrait, for its eye distance and lashes.
    """

    def __init__(
        self,
        lids: NDArray[np.float64],
        still: NDArray[np.uint8],
        closed: NDArray[np.uint8],
        lash: NDArray[np.float32],
        step: int,
        portrait: Portrait,
    ) -> None:
        iod_px = portrait.iod_px
        pad = np.array([0.05, 0.14]) * iod_px
        x0, y0 = ((lids.min(axis=0) - pad) / step).astype(int)
        x1, y1 = ((lids.max(axis=0) + pad) / step).astype(int) + 1
        self.box = (slice(y0, y1), slice(x0, x1))
        self._still, self._closed = (plane[self.box].reshape(y1 - y0, x1 - x0, -1) for plane in (still, closed))
        self._lash, self._iod = lash, iod_px
        x = (np.arange(x0, x1, dtype=np.float32) + 0.5) * step - 0.5
        self._y = ((np.arange(y0, y1, dtype=np.float32) + 0.5) * step - 0.5)[:, None]
        self._upper, self._lower = _parabola(lids[[0, 1, 2]], x), _parabola(lids[[0, 3, 2]], x)
        inside = np.minimum(x - lids[0, 0], lids[2, 0] - x) / (0.03 * iod_px)
        top = (self._y - self._upper + portrait.lash_iod * iod_px) / (0.03 * iod_px)
        self._window = np.clip(inside + 1, 0, 1) * np.clip(top, 0, 1)

    def render(self, closure: float) -> NDArray[np.uint8]:
        """The region with the upper lid lowered by `closure` (0..1) of the way to the lower lid."""
        edge = self._upper + closure * (self._lower - self._upper)
        lid = self._window * np.clip((edge - self._y) / 1.5 + 0.5, 0, 1) * min(1.0, 4 * closure)
        lash = self._window * np.exp(-(((self._y - edge) / (0.016 * self._iod)) ** 2)) * min(1.0, 3 * closure) * 0.75
        covered = self._still * (1 - lid[..., None]) + self._closed * lid[..., None]
        shown = covered * (1 - lash[..., None]) + self._lash * lash[..., None]
        return np.rint(shown).astype(np.uint8)


def lash_rgb() -> NDArray[np.uint8]:
    """[2, 2, 3] patch of the lash colour, for conversion to the planes' colour space."""
    return np.full((2, 2, 3), _LASH_RGB, np.uint8)


def _parabola(points: NDArray[np.float64], x: NDArray[np.floating]) -> NDArray[np.float32]:
    """y at columns x of the parabola through three points."""
    return np.asarray(np.polyval(np.polyfit(points[:, 0], points[:, 1], 2), x), np.float32)
