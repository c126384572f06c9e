"""Portrait: a public-domain still that ships inside a wheel, on a video canvas, with its 68 landmarks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from storage import weights

_DETECT_SCALE = 3  # the smaller face has 60 px between the eyes; the predictor's integers are finer on 3x pixels


@dataclass(frozen=True, slots=True)
class Portrait:
    """One face on a canvas, upright and looking at the camera.

    Attributes:
        name: 'astronaut' or 'hopper'.
        rgb: [H, W, 3] uint8 canvas.
        landmarks: [68, 2] float64 px on the canvas, iBUG-68.
        lids: [2, 4, 2] float64 px: per eye its left corner, upper middle, right corner, lower middle.
        lash_iod: how far the lashes reach above the upper lid, in IOD.
    """

    name: str
    rgb: NDArray[np.uint8]
    landmarks: NDArray[np.float64]
    lids: NDArray[np.float64]
    lash_iod: float

    @property
    def iod_px(self) -> float:
        """Distance of the outer eye corners (points 36 and 45)."""
        return float(np.linalg.norm(self.landmarks[45] - self.landmarks[36]))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Placement of a still: scale and first row for a canvas of 1920 columns; lids in still px (None: predicted)."""

    load: Callable[[], NDArray[np.uint8]]
    scale: float
    first_row: float
    lids: tuple[tuple[tuple[float, float], ...], ...] | None
    lash_iod: float


def load_portrait(name: str, width_px: int, height_px: int) -> Portrait:
    """The still `name` on a canvas of that size; face position and share of the frame are the same for every 16:9 size.

    Raises:
        KeyError: no such still.
    """
    layout = _LAYOUTS[name]
    still = layout.load()
    scale = layout.scale * width_px / 1920
    x0 = (still.shape[1] * scale - width_px) / 2
    to_canvas = np.array([[scale, 0, -x0 + (scale - 1) / 2], [0, scale, -layout.first_row * scale + (scale - 1) / 2]])
    landmarks = _landmarks(name)
    # Predicted lids: the corners of each eye, and the middles of its two upper and its two lower points.
    eyes = landmarks[36:48].reshape(2, 6, 2)
    predicted = np.stack([eyes[:, 0], eyes[:, 1:3].mean(axis=1), eyes[:, 3], eyes[:, 4:6].mean(axis=1)], axis=1)
    lids = predicted if layout.lids is None else np.array(layout.lids)
    rgb = _compose(still, to_canvas, (width_px, height_px))
    return Portrait(name, rgb, _apply(to_canvas, landmarks), _apply(to_canvas, lids), layout.lash_iod)


def _astronaut() -> NDArray[np.uint8]:
    """Eileen Collins, NASA, public domain; part of scikit-image."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


def _hopper() -> NDArray[np.uint8]:
    """Grace Hopper, US Navy, public domain; part of matplotlib's sample data."""
    from matplotlib import cbook

    path = Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: not a JPEG; reinstall matplotlib")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # pyright: ignore[reportReturnType]


# Glasses pull the predicted lids of this still onto the rim, so its lids are read off the image.
_HOPPER_LIDS = (
    ((208.0, 193.5), (223.0, 183.5), (240.0, 194.0), (223.5, 196.5)),
    ((288.0, 193.5), (304.5, 180.5), (322.0, 187.5), (305.5, 193.0)),
)
_LAYOUTS = {
    "astronaut": _Layout(_astronaut, 3.75, 0.0, None, 0.075),
    "hopper": _Layout(_hopper, 2.0, 12.0, _HOPPER_LIDS, 0.045),
}


@cache
def _landmarks(name: str) -> NDArray[np.float64]:
    """[68, 2] of the one face in the still `name`, px of the still; kept, because the predictor loads for a second."""
    gray = np.ascontiguousarray(cv2.cvtColor(_LAYOUTS[name].load(), cv2.COLOR_RGB2GRAY))
    box = dlib.get_frontal_face_detector()(gray, 0)[0]  # pyright: ignore[reportAttributeAccessIssue]
    scale = _DETECT_SCALE
    large = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    corners = (side * scale for side in (box.left(), box.top(), box.right(), box.bottom()))
    shape = dlib.shape_predictor(str(weights.resolve("dlib68")))(large, dlib.rectangle(*corners))  # pyright: ignore[reportAttributeAccessIssue]
    return (np.array([(point.x, point.y) for point in shape.parts()]) + 0.5) / scale - 0.5


def _apply(transform: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ transform[:, :2].T + transform[:, 2]


def _compose(still: NDArray[np.uint8], to_canvas: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The still on a canvas; where it does not reach, its own strongly blurred enlargement, joined by a soft edge."""
    sharp = cv2.warpAffine(still, to_canvas, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    width = size[0]
    left, right = to_canvas[0, 2], to_canvas[0, 2] + still.shape[1] * to_canvas[0, 0]
    feather = 0.05 * width
    columns = np.arange(width, dtype=np.float32)
    inside = np.clip(np.minimum(columns - left, right - columns) / feather, 0, 1) if right - left < width else 1.0
    alpha = np.broadcast_to(np.float32(inside) ** 2 * (3 - 2 * np.float32(inside)), (width,))[None, :, None]
    blurred = cv2.GaussianBlur(cv2.resize(still, (64, 36), interpolation=cv2.INTER_AREA), (0, 0), 4)
    soft = cv2.resize(blurred, size, interpolation=cv2.INTER_CUBIC)
    return np.rint(sharp * alpha + soft * (1 - alpha)).clip(0, 255).astype(np.uint8)
