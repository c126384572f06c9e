"""blendshapes: MediaPipe's 478 points, 52 expression coefficients and head pose, which its model computes at once.

Needs the optional package mediapipe and the weights `face_landmarker`; without them the extractor is left out.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from storage.tables import Column
from storage.timelaw import FPS
from tasks.clip import Clip
from tasks.faces import mediapipe

VERSION = 1
REQUIRES: tuple[str, ...] = ()
LIBRARIES = ("mediapipe", "numpy", "opencv-python")
CODE_FILES = ("faces/mediapipe.py", "faces/landmark_maps.py", "geometry.py")
COLUMNS = (
    Column(
        "landmarks478",
        "float32",
        ("N", 478, 3),
        unit="px",
        rate_hz=FPS,
        doc="x, y in the crop and z relative to the head's centre, negative towards the camera; NaN where no face",
    ),
    Column(
        "blendshapes",
        "float32",
        ("N", 52),
        rate_hz=FPS,
        doc="0..1, in the model's order (0 is _neutral); NaN where no face",
    ),
    Column(
        "head_pose",
        "float32",
        ("N", 4, 4),
        unit="cm",
        rate_hz=FPS,
        doc="canonical face to camera (x right, y up, z towards the viewer), row by row; NaN where no face",
    ),
    Column("blendshapes_valid", "bool", ("N",), rate_hz=FPS, doc="MediaPipe found a face in this frame"),
)


class Params(BaseModel):
    """'image' analyses each frame alone; 'video' tracks and smooths, which steadies the points but delays fast lips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["image", "video"] = "image"


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> dict[str, NDArray]:
    """`landmarks478` [N, 478, 3], `blendshapes` [N, 52], `head_pose` [N, 4, 4] and the mask `blendshapes_valid` [N].

    Raises:
        WeightsError: the package or the model file is absent; `missing` reports it beforehand.
    """
    n = clip.num_frames
    points, shapes, poses = (np.full((n, *shape), np.nan, np.float32) for shape in ((478, 3), (52,), (4, 4)))
    with mediapipe.MediapipeLandmarker() as landmarker:
        for index in range(n):
            timestamp_ms = index * 1000 // FPS if params.mode == "video" else None
            face = landmarker.analyse(clip.frame(index), timestamp_ms)
            if face is not None:
                points[index], shapes[index], poses[index] = face.landmarks, face.blendshapes, face.pose
    is_valid = np.asarray(np.isfinite(shapes).all(axis=1))
    return {"landmarks478": points, "blendshapes": shapes, "head_pose": poses, "blendshapes_valid": is_valid}


def missing(params: Params) -> str | None:
    """The reason why MediaPipe cannot be used here, or None."""
    return mediapipe.missing()


def weights(params: Params) -> tuple[str, ...]:
    """The model file."""
    return (mediapipe.WEIGHTS,)
