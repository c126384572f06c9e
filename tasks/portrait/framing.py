"""Squares of portraits and driving videos, in which faces are as large as in training clips.

Motion codes hold where in its square a face is, and how large. Training clips are squares around the faces of five
seconds (see tasks.geometry), which are larger than one face, and smaller than all that a head does in minutes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from storage.catalog import CropRule
from tasks.geometry import crop_square, union

# The longer side of the union of a speaker's boxes over five seconds, in units of that of one box: see tasks.geometry.
UNION_GROWTH = 1.12
# Of a full training clip.
CLIP_FRAMES = 125

Square = tuple[int, int, int]


def still_square(box: NDArray[np.floating], rule: CropRule) -> Square:
    """The square (x0, y0, side) px of an image, about as large as that of a clip it might be taken from.

    Args:
        box: [4] of its face.
        rule: see tasks.geometry.crop_square.

    Raises:
        ValueError: the box is not known.
    """
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * UNION_GROWTH
    return crop_square(np.concatenate([centre - half, centre + half])[None], rule)


def shot_square(boxes: NDArray[np.floating], rule: CropRule) -> Square:
    """One square (x0, y0, side) px for a shot of any length, as large as those of the training clips within it.

    A shot of up to five seconds is such a clip. A longer one is covered by stretches of five seconds. Its square is of
    the median of their sizes, in the middle between the outermost of their centres: where a head wanders further than
    the square reaches, it leaves it at both ends alike.

    Args:
        boxes: [N, 4] of frames that follow each other; NaN rows are passed over.
        rule: see tasks.geometry.crop_square.

    Raises:
        ValueError: no box is known.
    """
    spare = len(boxes) - CLIP_FRAMES
    if spare <= 0 or not np.isfinite(boxes).all(axis=1).any():
        return crop_square(boxes, rule)
    firsts = np.linspace(0, spare, math.ceil(spare / CLIP_FRAMES) + 1).round().astype(int)
    unions = np.stack([union(boxes[first : first + CLIP_FRAMES]) for first in firsts]).astype(np.float64)
    unions = unions[np.isfinite(unions).all(axis=1)]
    half = np.median((unions[:, 2:] - unions[:, :2]).max(axis=1)) / 2
    centres = (unions[:, :2] + unions[:, 2:]) / 2
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    return crop_square(np.concatenate([middle - half, middle + half])[None], rule)
