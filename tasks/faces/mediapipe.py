"""MediaPipe's face landmarker: 478 points, 52 blendshapes and a head pose; as a backend, the 68 points among them.

Needs the optional package `mediapipe` and the weights `face_landmarker`. Its points differ from the 68-point definition
by a constant offset each (see landmark_maps). A face smaller than about 11 % of the image's longer side is missed.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from storage import weights
from storage.errors import WeightsError
from storage.keys import library_versions
from tasks.faces.backend import Detection
from tasks.faces.landmark_maps import from_mediapipe
from tasks.geometry import hog_box, iou

CODE_FILES = ("faces/mediapipe.py", "faces/landmark_maps.py")
LIBRARIES = ("mediapipe",)
WEIGHTS = "face_landmarker"
WEIGHT_FILES = (WEIGHTS,)
MAX_FACES = 8
CROP_MARGIN = 0.6  # of the box, on each side: the landmarker's own detector needs the whole head
CROP_FACE_PX = 160
VERIFY_IOU = 0.35
NO_PACKAGE = "the package mediapipe is not installed: pip install -e '.[mediapipe]'"


@dataclass(frozen=True, slots=True)
class MediapipeFace:
    """One face.

    Attributes:
        landmarks: float32 [478, 3] x, y px (pixel law) and z, depth in px relative to the head's centre, towards the
            camera negative.
        blendshapes: float32 [52] in 0..1, ARKit-like, in the order of the model (0 is `_neutral`).
        pose: float32 [4, 4], canonical face (cm) -> camera space (cm; x right, y up, z towards the viewer).
    """

    landmarks: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    pose: NDArray[np.float32]


class MediapipeLandmarker:
    """The landmarker on single images and on video; a context manager, because it must be closed."""

    def __init__(self, max_faces: int = 1) -> None:
        """Find the package and the model file; the network is loaded at first use.

        Raises:
            WeightsError: one of the two is absent.
        """
        if find_spec("mediapipe") is None:
            raise WeightsError(NO_PACKAGE)
        self._path = weights.resolve(WEIGHTS)
        self._max_faces = max_faces
        self._landmarkers: dict[bool, Any] = {}  # is_video -> landmarker

    def analyse(self, rgb: NDArray[np.uint8], timestamp_ms: int | None = None) -> MediapipeFace | None:
        """The first face of an RGB image uint8 [H, W, 3], or None.

        With a timestamp the image is the next frame of a video (timestamps must rise): the face is tracked and
        smoothed.
        """
        faces = self.analyse_all(rgb, timestamp_ms)
        return faces[0] if faces else None

    def analyse_all(self, rgb: NDArray[np.uint8], timestamp_ms: int | None = None) -> list[MediapipeFace]:
        """Up to `max_faces` faces, as `analyse`."""
        import mediapipe

        # MediaPipe ignores strides without a word: it would read the wrong pixels.
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        landmarker = self._landmarker(timestamp_ms is not None)
        found = landmarker.detect(image) if timestamp_ms is None else landmarker.detect_for_video(image, timestamp_ms)
        height, width = rgb.shape[:2]
        faces = []
        parts = zip(found.face_landmarks, found.face_blendshapes, found.facial_transformation_matrixes, strict=True)
        for points, shapes, pose in parts:
            landmarks = np.array([(p.x, p.y, p.z) for p in points], np.float64) * (width, height, width)
            landmarks[:, :2] -= 0.5  # MediaPipe counts from the image's edge, we from the centre of its first pixel
            blendshapes = np.array([shape.score for shape in shapes], np.float32)
            faces.append(MediapipeFace(landmarks.astype(np.float32), blendshapes, np.asarray(pose, np.float32)))
        return faces

    def close(self) -> None:
        """Release the networks and their threads. An unclosed landmarker raises when the interpreter ends."""
        while self._landmarkers:
            self._landmarkers.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _landmarker(self, is_video: bool) -> Any:
        if is_video not in self._landmarkers:
            from mediapipe.tasks.python import BaseOptions, vision

            mode = vision.RunningMode.VIDEO if is_video else vision.RunningMode.IMAGE
            options = vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(self._path)),
                running_mode=mode,
                num_faces=self._max_faces,
                output_face_blendshapes=True,
                output_facial_transformation_matrixes=True,
            )
            self._landmarkers[is_video] = vision.FaceLandmarker.create_from_options(options)
        return self._landmarkers[is_video]


class MediapipeBackend:
    """68 landmarks by MediaPipe; every image is analysed by itself, so results do not depend on the order of calls.

    Attributes:
        name: "mediapipe".
        identity: version and the hash of the model file.
    """

    name = "mediapipe"

    def __init__(self) -> None:
        """Load the landmarker.

        Raises:
            WeightsError: the package or the model file is absent.
        """
        self._landmarker = MediapipeLandmarker(MAX_FACES)
        version = library_versions(["mediapipe"])["mediapipe"]
        self.identity = {"name": self.name, "version": version, "sha256": weights.fingerprint(WEIGHTS)}

    def detect(self, gray: NDArray[np.uint8], min_face_px: int) -> list[Detection]:
        """Faces of at least `min_face_px`, largest first: the landmarker gives no score."""
        shapes = (from_mediapipe(face.landmarks)[:, :2] for face in self._landmarker.analyse_all(_rgb(gray)))
        boxes = sorted((hog_box(shape) for shape in shapes), key=lambda box: box[0] - box[2])
        return [Detection(box.astype(np.float32), 1.0) for box in boxes if box[2] - box[0] >= min_face_px]

    def verify(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> bool:
        """Whether the crop around `box` shows a face of about its place and size."""
        landmarks = self.landmarks(gray, box)
        return bool(np.isfinite(landmarks).all() and iou(hog_box(landmarks), box) >= VERIFY_IOU)

    def landmarks(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32]:
        """The face nearest to `box` in a crop around it: float32 [68, 2] px, NaN when there is none."""
        import cv2

        side = max(float(box[2] - box[0]), 1.0)
        corner = np.floor((np.asarray(box[:2], np.float64) + box[2:]) / 2 - side * (0.5 + CROP_MARGIN))
        scale, size = CROP_FACE_PX / side, round(CROP_FACE_PX * (1 + 2 * CROP_MARGIN))
        # From crop pixel centres to source pixel centres; outside the frame the crop is black.
        x, y = corner + 0.5 / scale - 0.5
        to_source = np.array([[1 / scale, 0, x], [0, 1 / scale, y]])
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(np.ascontiguousarray(gray), to_source, (size, size), flags=how)
        faces = self._landmarker.analyse_all(_rgb(crop))  # pyright: ignore[reportArgumentType]
        shapes = [(from_mediapipe(face.landmarks)[:, :2] + 0.5) / scale - 0.5 + corner for face in faces]
        if not shapes:
            return np.full((68, 2), np.nan, np.float32)
        return max(shapes, key=lambda shape: float(iou(hog_box(shape), box))).astype(np.float32)

    def close(self) -> None:
        """Release the landmarker."""
        self._landmarker.close()


def load(_device: str | None = None) -> MediapipeBackend:
    """The backend, ready to use, on the CPU; closed by itself when the process ends."""
    import atexit

    backend = MediapipeBackend()
    atexit.register(backend.close)
    return backend


def missing() -> str | None:
    """The reason why MediaPipe cannot be used here, in one line, or None."""
    if find_spec("mediapipe") is None:
        return NO_PACKAGE
    return weights.missing(WEIGHTS)


def _rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, axis=2)
