"""bbox: the speaker's face box in every frame, from the tracked landmarks; EDTalk's sync loss cuts faces by it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from storage.tables import Column
from storage.timelaw import FPS
from tasks.clip import Clip
from tasks.geometry import face_box

VERSION = 1
REQUIRES: tuple[str, ...] = ()
LIBRARIES = ("numpy",)
CODE_FILES = ("geometry.py",)
COLUMNS = (
    Column(
        "bbox",
        "float32",
        ("N", 4),
        unit="px",
        rate_hz=FPS,
        doc="x0, y0, x1, y1 in the crop, clipped to it; NaN where missing",
    ),
    Column("num_faces", "int16", ("N",), unit="faces", rate_hz=FPS, doc="faces tracked in the source frame"),
)


class Params(BaseModel):
    """There is nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> dict[str, NDArray]:
    """`bbox` [N, 4] xyxy px within 0..size - 1 and `num_faces` [N]; NaN where no face is in the crop."""
    boxes = np.clip(face_box(clip.landmarks), 0, clip.size_px - 1)
    is_empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    boxes[is_empty | ~clip.valid] = np.nan
    return {"bbox": boxes, "num_faces": clip.num_faces.copy()}
