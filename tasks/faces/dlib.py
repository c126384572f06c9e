"""The default backend: dlib's HOG face detector and the 68-point predictor. Needs no download and no GPU.

HOG windows are 80 px wide, so an image is searched at the scale that makes the smallest wanted face about that large,
and a tracked face is verified on a small crop around it: the cost then does not depend on the frame size.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.faces.backend import Detection
from tasks.geometry import iou

CODE_FILES = ("faces/dlib.py", "faces/predictor68.py")
LIBRARIES = ("dlib-bin",)
WEIGHT_FILES = ("dlib68",)

SEARCH_FACE_PX = 78  # the smallest wanted face after scaling: HOG finds every frontal face from about 75 px up
MAX_ENLARGEMENT = 2.0
VERIFY_FACE_PX = 90
VERIFY_MARGIN = 0.3  # of the box, added on each side before verifying
MIN_SCORE = 0.0  # to accept a new face; real clips give 0.7 to 3 for faces, at most -0.5 where there is none
# To keep a known one: faces turned to near profile sink to -0.25, places without a face stay below -0.55.
VERIFY_SCORE = -0.4
VERIFY_IOU = 0.35


class DlibBackend:
    """HOG detection and our own evaluation of dlib's 68-point predictor.

    Attributes:
        name: "dlib".
        identity: versions and the hash of the predictor file.
    """

    name = "dlib"

    def __init__(self) -> None:
        """Load the detector and the predictor's tables.

        Raises:
            WeightsError: the predictor file is absent.
        """
        import dlib

        from tasks.faces.predictor68 import Predictor68

        self._predictor = Predictor68()
        self._detector = dlib.get_frontal_face_detector()  # pyright: ignore[reportAttributeAccessIssue]
        self.identity = {"name": self.name, "version": f"dlib {dlib.__version__}", "sha256": self._predictor.sha256}  # pyright: ignore[reportAttributeAccessIssue]

    def detect(self, gray: NDArray[np.uint8], min_face_px: int) -> list[Detection]:
        """Every frontal to three-quarter face of at least `min_face_px`, surest first."""
        scale = min(SEARCH_FACE_PX / max(min_face_px, 1), MAX_ENLARGEMENT)
        found = self._search(_resized(gray, scale), MIN_SCORE)
        return [Detection((box / scale).astype(np.float32), score) for box, score in found]

    def verify(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> bool:
        """Whether HOG, with a lowered threshold, finds a face of about this place and size in the crop around `box`."""
        import cv2

        side = max(float(max(box[2] - box[0], box[3] - box[1])), 1.0)
        reach = round(side * (0.5 + VERIFY_MARGIN))
        x, y = (round(float(v)) for v in ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        left, top, right, bottom = x - reach, y - reach, x + reach, y + reach
        inner = gray[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if inner.size == 0:
            return False
        height, width = gray.shape
        pads = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
        crop = cv2.copyMakeBorder(np.ascontiguousarray(inner), *pads, cv2.BORDER_REPLICATE)
        scale = VERIFY_FACE_PX / side
        wanted = (np.asarray(box, np.float64) - (left, top, left, top)) * scale
        found = self._search(_resized(crop, scale), VERIFY_SCORE)  # pyright: ignore[reportArgumentType]
        return any(float(iou(face, wanted)) >= VERIFY_IOU for face, _ in found)

    def landmarks(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32]:
        """68 landmarks of the face in `box`, float32 [68, 2] px."""
        return self._predictor(gray, box)

    def _search(self, image: NDArray[np.uint8], min_score: float) -> list[tuple[NDArray[np.float64], float]]:
        # dlib ignores strides without a word: it would search the wrong pixels.
        rectangles, scores, _ = self._detector.run(np.ascontiguousarray(image), 0, min_score)
        boxes = [np.array([r.left(), r.top(), r.right(), r.bottom()], np.float64) for r in rectangles]
        return list(zip(boxes, scores, strict=True))


def load(_device: str | None = None) -> DlibBackend:
    """The backend, ready to use; it computes on the CPU."""
    return DlibBackend()


def _resized(gray: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """The image at `scale`, antialiased when it shrinks."""
    import cv2

    height, width = gray.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(gray), size, interpolation=how)  # pyright: ignore[reportReturnType]
