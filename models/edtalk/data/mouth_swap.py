"""swap_mouth: the mouth of one face set into another, an image with the mouth of one person and the pose of another.

Cross-reconstruction of EDTalk section 3.2 (mouth-pose decoupling) drives with such images. As published, three points
(both eyes and the inner mouth) give rotation and scale, and the centres of the mouths coincide. Unlike the released
code the whole canvas is drawn, the replaced area covers the mouths of both faces and fades out at its edge, and its
colours are matched to the skin around it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat

from models.data.landmark_motion import MOUTH

LEFT_EYE, RIGHT_EYE, INNER_LIPS = slice(36, 42), slice(42, 48), slice(60, 68)
# Side of the images whose pixels the options count.
CANVAS_PX = 256
# Landmarks lie on the edge of the lips: a pixel nearer to them may still be lip, not skin.
_LIP_PX = 2.0
_LOWEST_GAIN, _HIGHEST_GAIN = 0.5, 2.0
# Of 255, between quartiles. The spread of flatter skin is no measure of contrast.
_FLAT = 10.0
_FEWEST_PIXELS = 30


class SwapOptions(BaseModel):
    """How a mouth is set in; lengths in pixels of a 256-px image.

    Attributes:
        margin_px: reach of the replaced area beyond the lips of both faces (published: 5).
        feather_px: length over which it fades out.
        has_colour_match: whether median and contrast of each colour channel become those of the replaced skin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin_px: NonNegativeFloat = 5.0
    feather_px: PositiveFloat = 8.0
    has_colour_match: bool = True


@dataclass(frozen=True, slots=True)
class Face:
    """An image of a face.

    Attributes:
        image: [S, S, 3] uint8 RGB.
        points: [68, 2] landmarks in px of the image, all finite.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.floating]


def swap_mouth(target: Face, mouth: Face, options: SwapOptions | None = None) -> NDArray[np.uint8]:
    """The image of `target` with the mouth of another face.

    Args:
        target: gives everything but the mouth.
        mouth: gives the mouth.
        options: None is SwapOptions().

    Returns:
        [S, S, 3] uint8 RGB; equal to `target` beyond margin and feather around both mouths.
    """
    options = options or SwapOptions()
    size = height, width = target.image.shape[:2]
    px, to_target = width / CANVAS_PX, mouth_transform(mouth.points, target.points)
    moved = mouth.points @ to_target[:, :2].T + to_target[:, 2]
    # pixels beyond the other image repeat its edge: nothing black comes in
    warped = cv2.warpAffine(mouth.image, to_target, (width, height), borderMode=cv2.BORDER_REPLICATE)
    lips = _hull(np.concatenate([target.points[MOUTH], moved[MOUTH]]), size)
    distance = cv2.distanceTransform(1 - lips, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / px
    # smooth from 1 within the margin to 0 behind the feather
    rest = 1 - ((distance - options.margin_px) / options.feather_px).clip(0, 1)
    alpha = rest * rest * (3 - 2 * rest)
    patch, ground = warped.astype(np.float32), target.image.astype(np.float32)
    if options.has_colour_match:
        is_face = _hull(target.points, size) & _hull(moved, size) != 0
        patch = match_colours(patch, ground, is_face & (alpha > 0) & (distance > _LIP_PX))
    return np.rint(ground + alpha[..., None] * (patch - ground)).clip(0, 255).astype(np.uint8)


def mouth_mask(points: NDArray[np.floating], side_px: int, margin_px: float) -> NDArray[np.float32]:
    """[S, S] 1 on the lips of a face [68, 2] (px of the image) and up to `margin_px` of a 256-px image around them."""
    lips = _hull(points[MOUTH], (side_px, side_px))
    distance = cv2.distanceTransform(1 - lips, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * CANVAS_PX / side_px
    return (distance <= margin_px).astype(np.float32)


def mouth_transform(points: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """[2, 3] similarity x -> A x + t in px that maps a face [68, 2] onto another.

    Inner lips are mapped exactly; eyes as well as one scale and rotation can (least squares, the mouth counting like an
    eye).
    """
    here, there = _anchors(points), _anchors(target)
    centred, wanted = here - here.mean(), there - there.mean()
    turn = np.vdot(centred, wanted) / np.vdot(centred, centred).real
    move = there[2] - turn * here[2]
    return np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])


def match_colours(
    patch: NDArray[np.float32], ground: NDArray[np.float32], skin: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """A patch [S, S, 3] of 0..255 whose channels have the median and about the spread of `ground` over pixels `skin`.

    Light and skin tone act by a factor, limited to 1/2..2; where skin is too flat for an estimate of contrast, that of
    the medians is used. Medians and quartiles are robust against a nostril or a beard's edge. With too little visible
    skin the patch is returned unchanged.

    Args:
        patch: [S, S, 3], the colours to change.
        ground: [S, S, 3], the colours to match.
        skin: [S, S].
    """
    if np.count_nonzero(skin) < _FEWEST_PIXELS:
        return patch
    low, middle, high = np.quantile(patch[skin], (0.25, 0.5, 0.75), axis=0).astype(np.float32)
    low_there, wanted, high_there = np.quantile(ground[skin], (0.25, 0.5, 0.75), axis=0).astype(np.float32)
    factor = wanted / np.maximum(middle, 1)
    gain = factor * np.hypot(high_there - low_there, _FLAT) / np.hypot(factor * (high - low), _FLAT)
    return (patch - middle) * gain.clip(_LOWEST_GAIN, _HIGHEST_GAIN) + wanted


def _anchors(points: NDArray[np.floating]) -> NDArray[np.complex128]:
    """[3] centres of the eyes and of the inner lips as x + iy: a similarity is then one complex factor and a shift."""
    centres = np.stack([points[part].mean(axis=0, dtype=np.float64) for part in (LEFT_EYE, RIGHT_EYE, INNER_LIPS)])
    return centres[:, 0] + 1j * centres[:, 1]


def _hull(points: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W] 1 within the convex hull of points [K, 2], else 0."""
    inside = np.zeros(size, np.uint8)
    return cv2.fillConvexPoly(inside, cv2.convexHull(np.rint(points).astype(np.int32)), 1).astype(np.uint8, copy=False)
