"""quality: the scores of a clip. All are stored for every clip; thresholds are applied at publish time."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from storage.tables import Column
from storage.timelaw import FPS
from tasks.clip import Clip
from tasks.faces.head_pose import RIGID, eye_distance_px, head_angles_deg
from tasks.geometry import face_box

VERSION = 1
REQUIRES: tuple[str, ...] = ()
LIBRARIES = ("numpy", "opencv-python")
CODE_FILES = ("geometry.py", "faces/head_pose.py", "faces/landmark_maps.py")

FLOOR_DB = -120.0
FULL_SCALE = 0.999
MIN_FACE_SIDE_PX = 8

_SPEED = "% of eye distance per frame"
COLUMNS = (
    Column(
        "face_size_px",
        "float32",
        unit="source px",
        doc="median longer side of the face box, in pixels of the source video; NaN where no face",
    ),
    Column(
        "sharpness",
        "float32",
        doc="variance of the Laplacian over variance of luma, in the face; low = blurred; NaN where no face",
    ),
    Column("brightness", "float32", unit="luma 0-255", doc="mean luma of the face; NaN where no face"),
    Column("contrast", "float32", unit="luma 0-255", doc="standard deviation of luma in the face; NaN where no face"),
    Column(
        "yaw_deg", "float32", unit="deg", doc="median yaw; positive = nose to the right of the image; NaN where no face"
    ),
    Column("pitch_deg", "float32", unit="deg", doc="median pitch; positive = nose up; NaN where no face"),
    Column("roll_deg", "float32", unit="deg", doc="median roll; positive = clockwise; NaN where no face"),
    Column("max_abs_yaw_deg", "float32", unit="deg", doc="largest absolute yaw; NaN where no face"),
    Column("max_abs_pitch_deg", "float32", unit="deg", doc="largest absolute pitch; NaN where no face"),
    Column("max_abs_roll_deg", "float32", unit="deg", doc="largest absolute roll; NaN where no face"),
    Column("motion", "float32", unit=_SPEED, doc="median of speed; NaN without two known frames in a row"),
    Column(
        "jitter",
        "float32",
        unit=_SPEED,
        doc="landmark noise: median second difference of nose and eye corners; NaN without three known frames in a row",
    ),
    Column("num_faces_max", "int16", unit="faces", doc="most faces tracked in one source frame"),
    Column("multi_face_share", "float32", doc="share of frames with more than one face in the source"),
    Column("valid_share", "float32", doc="share of frames with landmarks"),
    Column("longest_gap_frames", "int32", unit="frames", doc="longest run of frames without landmarks"),
    Column("audio_rms_db", "float32", unit="dBFS", doc="level of the whole clip, at least -120"),
    Column("is_silent", "bool", doc="no audio, or audio_rms_db below the parameter silent_below_db"),
    Column("clipping_share", "float32", doc="share of samples at full scale"),
    Column("corrupt_share", "float32", doc="share of frames that the decoder flagged"),
    Column(
        "head_angles_deg", "float32", ("N", 3), unit="deg", rate_hz=FPS, doc="yaw, pitch, roll; NaN without landmarks"
    ),
    Column(
        "speed",
        "float32",
        ("N",),
        unit=_SPEED,
        rate_hz=FPS,
        doc="median landmark displacement since the frame before; NaN first",
    ),
)


class Params(BaseModel):
    """The stride of the frames whose pixels are measured, and the level that counts as silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixel_stride: int = Field(default=5, ge=1)
    silent_below_db: float = -60.0


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> dict[str, NDArray | np.generic]:
    """All scores of one clip; those that need landmarks or motion are NaN where the clip has none."""
    eyes_px = eye_distance_px(clip.landmarks)
    angles = head_angles_deg(clip.landmarks)
    # Median displacement of the 68 points since the frame before; NaN where either frame is unknown, and first.
    steps_px = np.linalg.norm(np.diff(clip.landmarks, axis=0), axis=2)
    speed = 100 * np.concatenate([[np.nan], np.median(steps_px, axis=1)]) / eyes_px
    shakes_px = np.linalg.norm(np.diff(clip.landmarks[:, RIGID], n=2, axis=0), axis=2).mean(axis=1)
    boxes = face_box(clip.landmarks)
    scores = {
        "face_size_px": _median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)) * clip.source_px_per_crop_px,
        **_pixel_scores(clip, boxes, params.pixel_stride),
        **_angle_scores(angles),
        "motion": _median(speed),
        "jitter": 100 * _median(shakes_px) / eyes_px,
        "multi_face_share": np.mean(clip.num_faces > 1),
        "valid_share": np.mean(clip.valid),
        "clipping_share": np.mean(np.abs(clip.audio) >= FULL_SCALE),
        "corrupt_share": np.mean(clip.is_corrupt),
    }
    power = float(np.mean(np.square(clip.audio, dtype=np.float64)))
    level_db = max(FLOOR_DB, 10 * np.log10(power)) if power > 0 else FLOOR_DB
    return {
        **{name: np.float32(score) for name, score in scores.items()},
        "num_faces_max": np.int16(clip.num_faces.max()),
        "longest_gap_frames": np.int32(_longest_run(~clip.valid)),
        "audio_rms_db": np.float32(level_db),
        "is_silent": np.bool_(not clip.has_audio or level_db < params.silent_below_db),
        "head_angles_deg": angles.astype(np.float32),
        "speed": speed.astype(np.float32),
    }


def _angle_scores(angles: NDArray[np.float64]) -> dict[str, float]:
    """Median and largest absolute value of each column of [N, 3] degrees."""
    scores = {}
    for name, curve in zip(("yaw", "pitch", "roll"), angles.T, strict=True):
        known = curve[np.isfinite(curve)]
        scores[f"{name}_deg"] = _median(known)
        scores[f"max_abs_{name}_deg"] = float(np.abs(known).max()) if len(known) else np.nan
    return scores


def _pixel_scores(clip: Clip, boxes: NDArray[np.float32], stride: int) -> dict[str, float]:
    """Medians of sharpness, brightness and contrast over every `stride`-th of the frames that have a face."""
    sampled = np.flatnonzero(np.isfinite(boxes).all(axis=1))[::stride]
    rows = [_face_pixels(clip.gray(int(index)), boxes[index]) for index in sampled]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return {
        name: _median(column) for name, column in zip(("sharpness", "brightness", "contrast"), columns, strict=True)
    }


def _face_pixels(gray: NDArray[np.uint8], box: NDArray[np.float32]) -> tuple[float, float, float]:
    """Sharpness, brightness and contrast of the part of `gray` inside `box`; NaN when hardly any of it is."""
    import cv2

    x0, y0 = np.maximum(np.floor(box[:2]), 0).astype(int)
    x1, y1 = np.maximum(np.ceil(box[2:]) + 1, 0).astype(int)
    face = gray[y0:y1, x0:x1]
    if min(face.shape) < MIN_FACE_SIDE_PX:
        return np.nan, np.nan, np.nan
    brightness, contrast = (float(value.item()) for value in cv2.meanStdDev(face))
    edges = float(cv2.meanStdDev(cv2.Laplacian(face, cv2.CV_16S))[1].item())
    return (edges / max(contrast, 1.0)) ** 2, brightness, contrast


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    return int(lengths.max(initial=0))


def _median(values: NDArray[np.floating]) -> float:
    """Median of the finite values; NaN when there is none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan
