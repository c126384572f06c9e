"""idexp_lm3d: the 3-D landmarks as the GeneFace line learns them, offsets from the mean face without pose."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.snapshot import Snapshot
from storage.tables import Column
from storage.timelaw import FPS
from tasks.face3d.shape_model import ShapeModel

SCALE = 10.0  # of the GeneFace line
IDEXP = Column(
    "idexp_lm3d", "float32", ("N", 68, 3), "10 mm", FPS,
    "10 x camera_scale x (lm3d - mean shape): identity and expression without pose; NaN where not fitted",
)  # fmt: skip


def snapshot_shape_model(snapshot: Snapshot) -> ShapeModel | str:
    """The shape model that the snapshot's face3d was fitted with, or why it cannot be loaded here."""
    from storage.errors import TalksetError
    from tasks.face3d import load_shape_model
    from tasks.features.face3d import Params

    params = Params.model_validate(snapshot.body.config["features"].get("face3d") or {})
    try:
        return load_shape_model(params.shape_model, params.shape_model_sha256)
    except (TalksetError, OSError) as error:
        return f"without idexp_lm3d.npy: {error}"


def idexp_lm3d(face3d: Mapping[str, Any], model: ShapeModel) -> NDArray[np.float32]:
    """[N, 68, 3] from the face3d columns of a clip.

    Raises:
        ValueError: the clip was fitted with another shape model.
    """
    if face3d["shape_model"] != model.identity:
        found = face3d["shape_model"]
        raise ValueError(f"face3d was fitted with {found}, not with {model.identity}; run `talkset refresh`")
    return (SCALE * face3d["camera_scale"] * (face3d["lm3d"] - model.mean)).astype(np.float32)
