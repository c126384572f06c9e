"""landmarks: 68 points (iBUG order) in every frame, those of the cut's tracking or detected anew by another backend."""

from collections.abc import Mapping
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from storage.errors import WeightsError
from storage.tables import Column
from storage.timelaw import FPS
from tasks.clip import Clip
from tasks.faces.backend import FaceBackend, backend_facts, load_backend
from tasks.geometry import face_box, iou

VERSION = 1
REQUIRES: tuple[str, ...] = ()
LIBRARIES = ("numpy", "opencv-python")
CODE_FILES = ("geometry.py", "faces")
COLUMNS = (
    Column(
        "landmarks",
        "float32",
        ("N", 68, 2),
        unit="px",
        rate_hz=FPS,
        doc="x, y in the crop, iBUG-68 order; NaN where missing",
    ),
    Column("landmarks_valid", "bool", ("N",), rate_hz=FPS, doc="the landmarks of this frame are known"),
)


class Params(BaseModel):
    """Where the points come from: 'track' is the cut, a backend's name detects them anew in the stored frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["track", "dlib", "face_alignment", "mediapipe"] = "track"
    min_face_px: int = Field(default=60, ge=20)


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> dict[str, NDArray]:
    """`landmarks` [N, 68, 2] px and `landmarks_valid` [N]; a frame is known entirely or not at all."""
    points = clip.landmarks.copy() if params.backend == "track" else _detected(clip, params)
    is_valid = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    points[~is_valid] = np.nan
    return {"landmarks": points, "landmarks_valid": is_valid}


def missing(params: Params) -> str | None:
    """The reason why the chosen backend cannot run here, or None."""
    if params.backend == "track":
        return None
    try:
        _backend(params.backend)
    except (WeightsError, ImportError) as error:
        return str(error)
    return None


def weights(params: Params) -> tuple[str, ...]:
    """Weight files of the chosen backend; those of the track are in the cut's key."""
    return () if params.backend == "track" else backend_facts(params.backend).weight_files


def libraries(params: Params) -> tuple[str, ...]:
    """Libraries of the chosen backend."""
    return () if params.backend == "track" else backend_facts(params.backend).libraries


@cache
def _backend(name: str) -> FaceBackend:
    return load_backend(name)


def _detected(clip: Clip, params: Params) -> NDArray[np.float32]:
    """[N, 68, 2]: in each frame the face that best covers the tracked one (the largest where none was tracked)."""
    backend = _backend(params.backend)
    tracked = face_box(clip.landmarks)
    whole = np.array([0, 0, clip.size_px - 1, clip.size_px - 1], np.float32)
    tracked = np.where(np.isfinite(tracked).all(axis=1, keepdims=True), tracked, whole)
    points = np.full((clip.num_frames, 68, 2), np.nan, np.float32)
    for index in range(clip.num_frames):
        gray = clip.gray(index)
        found = backend.detect(gray, params.min_face_px)
        if found:
            overlaps = [float(iou(face.box, tracked[index])) for face in found]
            points[index] = backend.landmarks(gray, found[int(np.argmax(overlaps))].box)
    return points
