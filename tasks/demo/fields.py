"""Fields: smooth displacements of a face, one per degree of freedom, summed per frame on a coarse grid."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.demo.portrait import Portrait

_CELL_PX = 8
_SIDE, _TOP, _BOTTOM = (1.25, 1.75), (1.5, 1.9), (1.35, 2.0)  # IOD from the eyes: whole motion within, none beyond


class Fields:
    """Basis displacements of one portrait over the region its head moves in.

    Attributes:
        box: rows and columns of the region on the canvas, from even numbers on; nothing moves on its border.
        names: the degrees of freedom. Head: shift_x, shift_y (IOD), roll, yaw, pitch (radians), zoom (relative);
            the rest (IOD) are the facial parts of `motion.EXPRESSIONS`.
    """

    def __init__(self, portrait: Portrait) -> None:
        eyes, frame = portrait.landmarks[36:48].mean(axis=0), portrait.rgb.shape[1::-1]
        low = np.maximum((eyes - np.array([_SIDE[1], _TOP[1]]) * portrait.iod_px) // 2 * 2, 0).astype(int)
        high = np.minimum(eyes + np.array([_SIDE[1], _BOTTOM[1]]) * portrait.iod_px, frame)
        cells = (high - low).astype(int) // _CELL_PX
        self.box = tuple(slice(int(low[i]), int(low[i] + cells[i] * _CELL_PX)) for i in (1, 0))
        centres = [(np.arange(-1, cells[i] + 1) + 0.5) * _CELL_PX - 0.5 + low[i] for i in (0, 1)]
        self._points = np.stack(np.meshgrid(*centres), axis=-1)
        basis = _head_basis(portrait, self._points, min(_TOP[1], (eyes[1] - low[1]) / portrait.iod_px))
        basis |= _expression_basis(portrait, self._points)
        self.names, self._low = tuple(basis), low
        self._basis = np.stack(list(basis.values())).astype(np.float32)

    def source_map(self, amounts: dict[str, float], step: int) -> NDArray[np.float32]:
        """[h, w, 2] column and row each pixel comes from, in px of a plane with `step` canvas px per px of the region.

        The coarse grid has one cell more on every side, so that its enlargement is linear up to the border.
        """
        weights = np.array([amounts.get(name, 0.0) for name in self.names], np.float32)
        coarse = (self._points - self._low + 0.5) / step - 0.5 - np.tensordot(weights, self._basis, axes=1) / step
        cell = _CELL_PX // step
        fine = cv2.resize(coarse.astype(np.float32), None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
        return fine[cell:-cell, cell:-cell]  # pyright: ignore[reportReturnType]


def _head_basis(portrait: Portrait, points: NDArray[np.float64], top: float) -> dict[str, NDArray[np.float64]]:
    """[rows, columns, 2] px per unit of each head motion; turns move what is near the camera (nose) most."""
    iod, eyes = portrait.iod_px, portrait.landmarks[36:48].mean(axis=0)
    away = (points - eyes) / iod
    share = _fade(np.abs(away[..., 0]), *_SIDE) * _fade(-away[..., 1], top - (_TOP[1] - _TOP[0]), top)
    share = (share * _fade(away[..., 1], *_BOTTOM))[..., None]
    face = portrait.landmarks[30]
    depth = np.exp(-(((points - face) / (iod * np.array([1.0, 1.2]))) ** 2).sum(axis=-1))[..., None] * iod
    neck = eyes + np.array([0, 1.3 * iod])
    turned = np.stack([-(points - neck)[..., 1], (points - neck)[..., 0]], axis=-1)
    return {
        "shift_x": share * [iod, 0.0],
        "shift_y": share * [0.0, iod],
        "roll": share * turned,
        "zoom": share * (points - neck),
        "yaw": share * depth * [1.0, 0.0],
        "pitch": share * depth * [0.0, 1.0],
    }


def _expression_basis(portrait: Portrait, points: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """[rows, columns, 2] px per IOD of each facial part's shift: sums of Gaussian bumps."""
    marks, iod = portrait.landmarks, portrait.iod_px
    up, out = np.array([0.0, -iod]), np.array([iod, 0.0])

    def bump(centre: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
        return np.exp(-(((points - centre) / (radius * iod)) ** 2).sum(axis=-1))[..., None]

    left_corner, right_corner = bump(marks[48], 0.24), bump(marks[54], 0.24)
    inner = bump(marks[21], 0.2), bump(marks[22], 0.2)
    upper_lids = sum(bump(lids[1], 0.1) for lids in portrait.lids)
    return {
        "corners_up": (left_corner + right_corner) * up,
        "corners_out": (right_corner - left_corner) * out,
        "left_corner_up": left_corner * up,
        "inner_brows_up": sum(inner) * up,
        "outer_brows_up": (bump(marks[18], 0.25) + bump(marks[25], 0.25)) * up,
        "brows_in": (inner[0] - inner[1]) * out,
        "nose_up": (bump(marks[31], 0.25) + bump(marks[35], 0.25)) * up,
        "lids_up": upper_lids * up,
    }


def _fade(value: NDArray[np.float64], whole: float, none: float) -> NDArray[np.float64]:
    """1 up to `whole`, 0 from `none` on, smooth between."""
    share = np.clip((none - value) / (none - whole), 0, 1)
    return share * share * (3 - 2 * share)
