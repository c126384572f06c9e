"""Mouth: a still opened along its lip line, in three layers: upper lip, what is behind the lips, lower lip and jaw."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.demo.portrait import Portrait

_DARK_RGB, _TONGUE_RGB = (50.0, 20.0, 20.0), (128.0, 62.0, 60.0)
_TEETH_RGB = (110.0, 76.0, 62.0)  # in the shade of the lip: landmark predictors take brighter ones for a lip
_CLOSED_BELOW = 0.05  # a still whose inner lips are nearer than this (IOD) counts as closed
_EDGE_PX = 1.5
_INVERSE_ROUNDS = 1  # exact at the lips, where the profile is level; within pixels at the chin
UPPER_LIP_SHARE = 0.12  # share of the gap made by raising the upper lip


class Mouth:
    """Inner-lip curves and displacement profiles of one portrait, px of its canvas."""

    def __init__(self, portrait: Portrait) -> None:
        self._iod = portrait.iod_px
        inner = portrait.landmarks[60:68]
        self.left, self.right = inner[0], inner[4]
        gap = (inner[[7, 6, 5], 1] - inner[[1, 2, 3], 1]).mean() / self._iod
        self.is_closed = bool(gap < _CLOSED_BELOW)
        middle = (inner[1:4] + inner[[7, 6, 5]]) / 2
        self._upper_points = (
            inner[[0, 1, 2, 3, 4]] if not self.is_closed else np.vstack([inner[:1], middle, inner[4:5]])
        )
        self._lower_points = inner[[0, 7, 6, 5, 4]] if not self.is_closed else self._upper_points
        centre = (self.left[0] + self.right[0]) / 2
        self.rest_gap = (
            float(self.lower_line(np.array([centre]))[0] - self.upper_line(np.array([centre]))[0]) / self._iod
        )

    def upper_line(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """y of the lower edge of the upper lip at columns x; beyond the corners it stays level with them."""
        return _curve(self._upper_points, x)

    def lower_line(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """y of the upper edge of the lower lip at columns x."""
        return _curve(self._lower_points, x)

    def across(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """-1 at the left corner, 1 at the right one."""
        return np.asarray(2 * (x - self.left[0]) / (self.right[0] - self.left[0]) - 1, np.float32)

    def lower_profile(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share 0..1 of the jaw's drop at each point: whole at the middle of the lower lip, none in cheeks and neck."""
        across, depth = self.across(x), (y - self.lower_line(x[0])) / self._iod
        lip, chin = np.clip(1 - across**2, 0, None) ** 0.85, 0.75 * np.exp(-((across / 1.7) ** 2))
        below = _smoothstep(depth / 0.4)
        return np.asarray((lip * (1 - below) + chin * below) * (1 - _smoothstep((depth - 0.5) / 0.65)), np.float32)

    def upper_profile(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share 0..1 of the upper lip's rise at each point above the lip line."""
        height = np.clip(self.upper_line(x[0]) - y, 0, None) / self._iod
        return np.asarray(np.clip(1 - self.across(x) ** 2, 0, None) * np.exp(-((height / 0.13) ** 2)), np.float32)

    def interior(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[H, W, 3] canvas of what is behind the lips: the still's own teeth or drawn ones, then dark, then tongue."""
        x, y = (plane.astype(np.float32) for plane in np.meshgrid(np.arange(rgb.shape[1]), np.arange(rgb.shape[0])))
        upper, lower = self.upper_line(x[0]), self.lower_line(x[0])
        round_share = np.sqrt(np.clip(1 - self.across(x[:1]) ** 2, 0, 1))
        if self.is_closed:
            gaps = 1 - 0.18 * np.exp(-((np.abs((x - self.left[0]) / (0.085 * self._iod) % 1 - 0.5) / 0.06) ** 2))
            teeth = np.array(_TEETH_RGB, np.float32) * gaps[..., None] * 0.9
            teeth_end = upper + 0.045 * self._iod * round_share
        else:
            rows = np.minimum(np.maximum(y, upper + 0.012 * self._iod), lower - 0.02 * self._iod)
            teeth = cv2.remap(rgb, x, rows.astype(np.float32), cv2.INTER_LINEAR).astype(np.float32)
            teeth_end = lower - 0.02 * self._iod
        depth = (y - teeth_end) / self._iod
        tongue = _smoothstep((depth - 0.04) / 0.14)[..., None] * 0.7
        back = np.array(_DARK_RGB) * (1 - tongue) + np.array(_TONGUE_RGB) * tongue
        behind = _smoothstep(depth / 0.02)[..., None]
        shade = (0.35 + 0.65 * round_share)[..., None] if self.is_closed else 1.0
        shown = np.clip((teeth * (1 - behind) + back * behind) * shade, 0, 255).astype(np.uint8)
        return np.where(np.abs(self.across(x))[..., None] < 1, shown, rgb)


class MouthPlane:
    """The mouth region of one plane of a portrait: luma (step 1) or chroma (step 2 canvas px per plane px).

    Args:
        mouth: curves and profiles.
        still: plane of the still, [h, w] or [h, w, 2] uint8.
        interior: the same plane of `Mouth.interior`.
        step: canvas px per plane px.
        iod_px: eye distance on the canvas.
    """

    def __init__(
        self, mouth: Mouth, still: NDArray[np.uint8], interior: NDArray[np.uint8], step: int, iod_px: float
    ) -> None:
        centre, reach = (mouth.left + mouth.right) / 2, np.array([1.1, 1.35]) * iod_px
        x0, y0 = np.maximum(((centre - [reach[0], 0.35 * iod_px]) / step).astype(int), 0)
        x1, y1 = np.minimum(((centre + reach) / step).astype(int), [still.shape[1], still.shape[0]])
        self.box = (slice(y0, y1), slice(x0, x1))
        self._step, self._still = step, still[self.box].copy()
        self._interior = interior[self.box].copy()
        grid = np.meshgrid(np.arange(x1 - x0, dtype=np.float32), np.arange(y1 - y0, dtype=np.float32))
        self._x, self._y = grid
        x, y = (
            ((values + start + 0.5) * step - 0.5).astype(np.float32)
            for values, start in zip(grid, (x0, y0), strict=True)
        )
        self._lower, self._upper = mouth.lower_profile(x, y), mouth.upper_profile(x, y)
        self._lower_row = (mouth.lower_line(x[0]) + 0.5) / step - 0.5 - y0
        self._upper_row = (mouth.upper_line(x[0]) + 0.5) / step - 0.5 - y0

    def render(self, drop_px: float, rise_px: float) -> NDArray[np.uint8]:
        """The region with the lower lip moved down and the upper lip moved up by so many canvas px."""
        lower_rows = self._inverse_rows(self._lower, drop_px / self._step)
        upper_rows = self._inverse_rows(self._upper, -rise_px / self._step)
        edge = _EDGE_PX / self._step
        in_lower = np.clip((lower_rows - self._lower_row) / edge + 0.5, 0, 1)
        in_upper = np.clip((self._upper_row - upper_rows) / edge + 0.5, 0, 1)
        behind = _mix(self._interior, cv2.remap(self._still, self._x, upper_rows, cv2.INTER_LINEAR), in_upper)
        return _mix(behind, cv2.remap(self._still, self._x, lower_rows, cv2.INTER_LINEAR), in_lower)

    def _inverse_rows(self, profile: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
        """Row each pixel comes from when row r moves to r + amount * profile(r); by fixed-point rounds."""
        scale = np.float32(amount)  # a float64 here would make float64 maps, which OpenCV 5 misreads without an error
        rows = self._y - scale * profile
        for _ in range(_INVERSE_ROUNDS):
            rows = self._y - scale * cv2.remap(
                profile, self._x, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        return rows  # pyright: ignore[reportReturnType]


def _mix(below: NDArray, above: NDArray, alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`above` over `below` with per-pixel opacity."""
    weight = alpha.astype(np.float32).reshape(alpha.shape + (1,) * (below.ndim - 2))
    return (below + (above.astype(np.float32) - below) * weight + 0.5).astype(np.uint8)


def _curve(points: NDArray[np.float64], x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Smooth curve through the points, level beyond its ends: linear pieces averaged over a fifth of the width."""
    reach = 0.1 * (points[-1, 0] - points[0, 0])
    shifts = np.linspace(-reach, reach, 9)
    pieces = [np.interp(np.asarray(x) + shift, points[:, 0], points[:, 1]) for shift in shifts]
    return np.mean(pieces, axis=0).astype(np.float32)


def _smoothstep(value: NDArray[np.floating]) -> NDArray[np.floating]:
    clipped = np.clip(value, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)
