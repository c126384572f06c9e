"""Paste-back: the generated square put into the picture it was cut from, with a soft edge."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

FEATHER = 0.12


class PasteBack:
    """Pastes squares into pictures of one size at one place; what depends on the place is computed once.

    Args:
        box: (x0, y0, side) px of the square in the picture, which it may leave.
        shape: (height, width) of the picture.
        feather: width of the soft edge as a share of the side. At the square's own edge nothing is left of the
            generated picture; where the square leaves the picture there is no such edge.

    Attributes:
        mask: [h, w] float32 0..1, share of the generated picture in each pixel of `region`.
        region: rows and columns of the picture that the square covers.
    """

    def __init__(self, box: Sequence[int], shape: Sequence[int], feather: float = FEATHER) -> None:
        self._box, self._shape = tuple(box), tuple(shape[:2])
        x0, y0, side = box
        (height, width), profile = self._shape, _profile(side, max(1.0, feather * side))
        rows, columns = slice(max(y0, 0), min(y0 + side, height)), slice(max(x0, 0), min(x0 + side, width))
        self.region = rows, columns
        self._inside = slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0)
        # An edge outside of the picture is not seen, so the profile towards it stays high.
        edges = (_open_ends(profile, y0, side, height), _open_ends(profile, x0, side, width))
        self.mask = np.outer(edges[0][self._inside[0]], edges[1][self._inside[1]]).astype(np.float32)

    def __call__(self, picture: NDArray[np.uint8], square: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the picture [H, W, 3] with the square [S, S, 3] in it; pixels outside of the mask are as before.

        Raises:
            ValueError: the picture has another size.
        """
        if picture.shape[:2] != self._shape:
            raise ValueError(f"a picture of {self._shape} px is expected, found {picture.shape[:2]}")
        result = picture.copy()
        part = result[self.region]
        if part.size:
            pasted = _resized(square, self._box[2])[self._inside]
            blend = part + (pasted.astype(np.float32) - part) * self.mask[..., None]
            part[...] = np.rint(blend).astype(np.uint8)
        return result


def _profile(side: int, feather_px: float) -> NDArray[np.float64]:
    """[side] rises smoothly from 0 at both ends to 1 within `feather_px`."""
    distance = np.minimum(np.arange(side), np.arange(side)[::-1])
    share = np.clip(distance / feather_px, 0, 1)
    return share**2 * (3 - 2 * share)


def _open_ends(profile: NDArray[np.float64], start: int, side: int, length: int) -> NDArray[np.float64]:
    """The profile without its fall towards an end that lies outside of 0 .. length."""
    middle, opened = side // 2, profile.copy()
    if start < 0:
        opened[:middle] = profile[middle]
    if start + side > length:
        opened[middle:] = profile[middle]
    return opened


def _resized(square: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The square at the size it had in the picture."""
    how = cv2.INTER_AREA if side < square.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(square, (side, side), interpolation=how)  # pyright: ignore[reportReturnType]
