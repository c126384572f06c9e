"""Boxes, crops and point transforms: pure functions of numbers.

Pixel law: x to the right, y down, the centre of the top-left pixel is (0, 0). Boxes are xyxy px; NaN landmarks give NaN
boxes.

Framing. In EDTalk's alignment template (a 256-px crop) a frontal face has its eyes at y 113, mouth at y 180, chin at y
224 and its jaw from x 61 to 194. `face_box` reaches from 0.75 eye-to-chin heights above the eyes (the hairline: y 30 in
the template) to the lowest landmark (y 224), so its centre is the template's centre. A speaker's union of boxes over
five seconds is about 1.12 times as large as one box (median over real clips), and 194 * 1.12 * 1.2 = 261: EDTalk's own
margin of 0.1 per side puts real clips on the template. Measured on six real clips in windows of 125 frames, mean
positions were: eyes y 110 to 126 (median 114), mouth 165 to 182 (177), chin 207 to 226 (222); the smaller ones are
fast-moving heads, whose union is larger.
"""

import math

import numpy as np
from numpy.typing import NDArray

from storage.catalog import CropRule

FOREHEAD = 0.75  # of the eye-to-chin height, above the eyes
SIDE_PAD = 0.03  # of the landmarks' width, on each side

HOG_CENTRE = (0.005, -0.161)  # dlib's detection box relative to the landmarks, in units of their RMS radius:
HOG_SIDE = 2.656  # medians over real clips


def face_box(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """Box of the face from hairline to chin, like S3FD's, from 68 landmarks [..., 68, 2] px: float32 [..., 4]."""
    low, high = landmarks.min(axis=-2), landmarks.max(axis=-2)
    eyes_y = landmarks[..., 36:48, 1].mean(axis=-1)
    forehead_y = eyes_y - FOREHEAD * (landmarks[..., 8, 1] - eyes_y)
    pad = SIDE_PAD * (high[..., 0] - low[..., 0])
    sides = (low[..., 0] - pad, np.minimum(low[..., 1], forehead_y), high[..., 0] + pad, high[..., 1])
    return np.stack(sides, axis=-1).astype(np.float32)


def hog_box(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """The box of dlib's detector around landmarks [..., 68, 2] px: float64 [..., 4], square.

    The landmark predictor was trained on such boxes; computed from frame t, it is the search box of frame t + 1.
    """
    points = np.asarray(landmarks, np.float64)
    mean = points.mean(axis=-2)
    radius = rms_radius(points)[..., None]
    centre, half = mean + np.array(HOG_CENTRE) * radius, HOG_SIDE / 2 * radius
    return np.concatenate([centre - half, centre + half], axis=-1)


def rms_radius(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Root mean square distance of points [..., K, 2] from their mean: [...]."""
    offsets = np.asarray(points, np.float64)
    offsets = offsets - offsets.mean(axis=-2, keepdims=True)
    return np.sqrt((offsets**2).sum(axis=-1).mean(axis=-1))


def iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of boxes [..., 4], broadcast: [...] in 0..1; 0 if a box is empty, NaN if one is NaN."""
    a, b = np.broadcast_arrays(np.asarray(first, np.float64), np.asarray(second, np.float64))
    shared = _area(np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1))
    total = _area(a) + _area(b) - shared
    return shared / np.where(total == 0, 1.0, total)


def union(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Smallest box around boxes [N, 4]; NaN rows are ignored. All NaN (or N = 0): NaN."""
    known = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(known):
        return np.full(4, np.nan, np.float32)
    return np.concatenate([known[:, :2].min(axis=0), known[:, 2:].max(axis=0)]).astype(np.float32)


def crop_square(boxes: NDArray[np.floating], rule: CropRule) -> tuple[int, int, int]:
    """One square for a whole clip, (x0, y0, side) px, around boxes [N, 4].

    The longer side of their union is grown by the rule's margin of it at each end. The square covers pixels x0 to
    x0 + side - 1 and may reach outside the frame: the cropper pads, nothing is squeezed or moved.

    Raises:
        ValueError: no box is known.
    """
    around = union(boxes).astype(np.float64)
    if not np.isfinite(around).all():
        raise ValueError("no face box to crop around: every row is NaN")
    longer = float(max(around[2] - around[0], around[3] - around[1]))
    side = max(1, math.ceil(longer * (1 + 2 * rule.margin)))
    x, y = ((around[:2] + around[2:]) / 2).tolist()
    return math.floor(x - side / 2 + 1), math.floor(y - side / 2 + 1), side


def transform_points(points: NDArray[np.floating], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points [..., 2] mapped by a 3x3 homogeneous matrix (such as resample.crop_transform): float32 [..., 2]."""
    mapped = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return (mapped[..., :2] / mapped[..., 2:]).astype(np.float32)


def transform_boxes(boxes: NDArray[np.floating], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Boxes [..., 4] mapped by a 3x3 matrix that scales and shifts (its corners stay corners): float32 [..., 4]."""
    corners = np.asarray(boxes).reshape(*boxes.shape[:-1], 2, 2)
    return transform_points(corners, matrix).reshape(boxes.shape)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)
