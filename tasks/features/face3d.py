"""face3d: 3DMM fit of the 68 landmarks: one identity per subject, pose and expression of every frame.

The 3DMM coefficients of GeneFace++, EmoGene and RealTalk, with their camera (`tasks.face3d.camera`). The default
shape model gp80x64 needs no licensed data; its coefficients are not comparable with BFM's (`shape_model` names it).
Identity is fitted once per subject group by `prepare`, then every clip by banded Gauss-Newton with a smoothness term.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from storage.tables import Column
from storage.timelaw import FPS
from tasks.clip import Clip
from tasks.face3d import camera, load_shape_model
from tasks.face3d.identity import fit_identity
from tasks.face3d.settings import Settings
from tasks.face3d.shape_model import NUM_EXP, NUM_ID, NUM_POINTS
from tasks.face3d.track import fit_track

VERSION = 1
REQUIRES: tuple[str, ...] = ("landmarks",)
LIBRARIES = ("numpy", "scipy")
CODE_FILES = ("face3d",)
COLUMNS = (
    Column("id", "float32", (NUM_ID,), doc="identity, prior N(0, 1); NaN when the subject has no usable frame"),
    Column("exp", "float32", ("N", NUM_EXP), rate_hz=FPS, doc="expression, prior N(0, 1)"),
    Column(
        "euler", "float32", ("N", 3), "rad", FPS, "pitch, yaw, roll; q = Rz Ry Rx p + trans; yaw > 0: to image right"
    ),
    Column("trans", "float32", ("N", 3), "100 mm", FPS, "x right, y up, z to the camera, which stands at z = 10"),
    Column("lm3d", "float32", ("N", NUM_POINTS, 3), "model", FPS, "mean + id + exp, no pose; p = camera_scale * lm3d"),
    Column("reprojection_px", "float32", ("N",), "px", FPS, "root mean square distance of landmark and projection"),
    Column("face3d_valid", "bool", ("N",), rate_hz=FPS, doc="fitted; all other rows of the frame are NaN where False"),
    Column("camera_scale", "float32", doc="camera units (about 100 mm) per unit of lm3d"),
    Column("shape_model", "string", doc="shape model and revision; different ones give incomparable coefficients"),
)


Arrays = dict[str, NDArray | np.generic | str]


class Params(Settings):
    """The objective (see Settings), the shape model and the frames of the identity.

    Attributes:
        shape_model: 'gp80x64', or the path of a BFM_model_front.mat.
        shape_model_sha256: hash of that file; required with a path, so that the stored key names contents.
        num_id_frames: frames per subject from which identity is fitted.
    """

    shape_model: str = "gp80x64"
    shape_model_sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    num_id_frames: int = Field(default=32, ge=1, le=256)


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> Arrays:
    """Columns of one clip; without `shared` (from `prepare`) identity comes from this clip alone."""
    model = load_shape_model(params.shape_model, params.shape_model_sha256)
    identity = (shared if shared is not None else prepare([clip], params))["id"]
    track = fit_track(camera.to_centred(clip.landmarks, clip.size_px), model, identity, params)
    arrays = {
        "id": identity,
        "exp": track.exp,
        "euler": track.euler,
        "trans": track.trans,
        "lm3d": model.points(identity, track.exp),
        "reprojection_px": track.residual_px * (clip.size_px / camera.IMAGE_PX),
    }
    columns: Arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    columns["face3d_valid"] = track.is_fitted
    columns["camera_scale"] = np.float32(model.camera_scale)
    columns["shape_model"] = model.identity
    return columns


def prepare(clips: Sequence[Clip], params: Params) -> dict[str, NDArray]:
    """`id` [80] float64 of the one subject of `clips`, whatever their order."""
    model = load_shape_model(params.shape_model, params.shape_model_sha256)
    ordered = sorted(clips, key=lambda clip: clip.key)
    landmarks = np.concatenate([camera.to_centred(clip.landmarks, clip.size_px) for clip in ordered])
    return {"id": fit_identity(landmarks, model, params, params.num_id_frames)}


def key_params(params: Params) -> dict[str, Any]:
    """The parameters with the contents of the shape model's file in place of its path."""
    dump = params.model_dump(mode="json")
    return {**dump, "shape_model": "bfm2009"} if params.shape_model_sha256 else dump


def missing(params: Params) -> str | None:
    """The reason why the fit cannot run here (the file of the shape model is absent), or None."""
    if params.shape_model.endswith(".mat") and not Path(params.shape_model).is_file():
        return f"{Path(params.shape_model).name} is absent: correct face3d's shape_model, or set it to gp80x64"
    return None
