"""Animate: video planes of a talking face, warped from one still."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.demo.fields import Fields
from tasks.demo.lids import LidPlane, closed_eyes, lash_rgb
from tasks.demo.motion import Motion
from tasks.demo.mouth import UPPER_LIP_SHARE, Mouth, MouthPlane
from tasks.demo.portrait import Portrait
from tasks.media.encode import rgb_to_yuv420

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


class Animator:
    """Renders frames of one portrait; only the region the head moves in is computed, the background is copied once.

    Args:
        portrait: the still on its canvas.
        is_bt709: matrix of the planes (BT.601 otherwise), as the writer of the video tags them.
    """

    def __init__(self, portrait: Portrait, *, is_bt709: bool) -> None:
        self._iod = portrait.iod_px
        self._mouth, self._fields = Mouth(portrait), Fields(portrait)
        self._frame = rgb_to_yuv420(portrait.rgb, is_bt709=is_bt709)
        rasters = (portrait.rgb, closed_eyes(portrait), self._mouth.interior(portrait.rgb), lash_rgb())
        planes = [rgb_to_yuv420(rgb, is_bt709=is_bt709) for rgb in rasters]
        luma, chroma = tuple(y for y, _, _ in planes), tuple(np.dstack([u, v]) for _, u, v in planes)
        self._luma = _Plane(portrait, self._mouth, self._fields, luma, step=1)
        self._chroma = _Plane(portrait, self._mouth, self._fields, chroma, step=2)

    def render(self, motion: Motion, index: int, emotion: str) -> Planes:
        """Planes y [H, W], u and v [H/2, W/2] uint8 of frame `index`; they are overwritten by the next call."""
        gap_px = (motion.mouth_opening[index] - self._mouth.rest_gap) * self._iod
        rise_px = UPPER_LIP_SHARE * max(0.0, gap_px)
        face = (gap_px - rise_px, rise_px, float(motion.blink[index]))
        amounts = motion.amounts(index, emotion)
        y, u, v = self._frame
        rows, columns = self._fields.box
        y[rows, columns] = self._luma.render(*face, amounts)
        half = (slice(rows.start // 2, rows.stop // 2), slice(columns.start // 2, columns.stop // 2))
        u[half], v[half] = cv2.split(self._chroma.render(*face, amounts))
        return self._frame


class _Plane:
    """Luma [h, w] or chroma [h, w, 2] of the moving region: first mouth and lids, then the smooth warp over all."""

    def __init__(
        self, portrait: Portrait, mouth: Mouth, fields: Fields, layers: tuple[NDArray[np.uint8], ...], step: int
    ) -> None:
        still, closed, interior, lash = layers
        self._fields, self._step, self._work = fields, step, still.copy()
        self._box = tuple(slice(side.start // step, side.stop // step) for side in fields.box)
        self._mouth = MouthPlane(mouth, still, interior, step, portrait.iod_px)
        value = lash[0, 0].astype(np.float32)
        self._lids = [LidPlane(lids, still, closed, value, step, portrait) for lids in portrait.lids]

    def render(self, drop_px: float, rise_px: float, closure: float, amounts: dict[str, float]) -> NDArray[np.uint8]:
        self._work[self._mouth.box] = self._mouth.render(drop_px, rise_px)
        for lid in self._lids:
            shown = self._work[lid.box]
            shown[...] = lid.render(closure).reshape(shown.shape)
        source = self._fields.source_map(amounts, self._step)
        # None, not an empty array as cv2's type hints ask: OpenCV 5.0 reads that as the rows of a one-channel image
        return cv2.remap(self._work[self._box], source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportReturnType, reportCallIssue, reportArgumentType]
