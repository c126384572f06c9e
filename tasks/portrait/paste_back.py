"""Paste-back: the generated square put into the image it was cut from, with a soft edge."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

FEATHER = 0.12


class PasteBack:
    """Pastes squares into images of one size at one place; what depends on the place is computed once.

    Args:
        box: (x0, y0, side) px of the square in the image, which it may leave.
        shape: (height, width) of the image.
        feather: width of the soft edge as a share of the side. At the square's own edge nothing is left of the
            generated image; where the square leaves the image there is no such edge.

    Attributes:
        mask: [h, w] float32 0..1, share of the generated image in each pixel of `region`.
        region: rows and columns of the image that the square covers.
    """

    def __init__(self, box: Sequence[int], shape: Sequence[int], feather: float = FEATHER) -> None:
        self._box, self._shape = tuple(box), tuple(shape[:2])
        x0, y0, side = box
        (height, width), middle = self._shape, side // 2
        # from 0 at both ends of the square smoothly to 1 within the soft edge
        distance = np.minimum(np.arange(side), np.arange(side)[::-1])
        share = np.clip(distance / max(1.0, feather * side), 0, 1)
        profile = share**2 * (3 - 2 * share)
        rows, columns = slice(max(y0, 0), min(y0 + side, height)), slice(max(x0, 0), min(x0 + side, width))
        self.region = rows, columns
        self._inside = slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0)
        edges = profile.copy(), profile.copy()
        for edge, start, length in zip(edges, (y0, x0), (height, width), strict=True):
            # an edge outside of the image is not seen, so the profile towards it stays high
            if start < 0:
                edge[:middle] = profile[middle]
            if start + side > length:
                edge[middle:] = profile[middle]
        self.mask = np.outer(edges[0][self._inside[0]], edges[1][self._inside[1]]).astype(np.float32)

    def __call__(self, image: NDArray[np.uint8], square: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the image [H, W, 3] with the square [S, S, 3] in it; pixels outside of the mask are as before.

        Raises:
            ValueError: the image has another size.
        """
        if image.shape[:2] != self._shape:
            raise ValueError(f"an image of {self._shape} px is expected, found {image.shape[:2]}")
        result = image.copy()
        part = result[self.region]
        if part.size:
            pasted = resized(square, self._box[2])[self._inside]
            blend = part + (pasted.astype(np.float32) - part) * self.mask[..., None]
            part[...] = np.rint(blend).astype(np.uint8)
        return result


def resized(square: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A square image at another size, uint8 [side, side, 3]: averaged where it shrinks, bicubic where it grows."""
    how = cv2.INTER_AREA if side < square.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(square, (side, side), interpolation=how)  # pyright: ignore[reportReturnType]
