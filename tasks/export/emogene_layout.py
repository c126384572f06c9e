"""Which file of the EmoGene export holds which column of a snapshot, and the README that says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import TalksetError
from storage.snapshot import Snapshot, feature_columns
from storage.tables import Column
from storage.timelaw import FPS
from tasks.export.output import ExportSummary
from tasks.face3d.shape_model import ShapeModel

FACE3D = "face3d"
CROP = Column("crop", "float64", (3, 3), doc="homogeneous transform: px in the upright source -> px in the frame")

# The 3-D landmarks as the GeneFace line learns them: offsets from the mean face without pose, times ten.
IDEXP_SCALE = 10.0
IDEXP = Column(
    "idexp_lm3d", "float32", ("N", 68, 3), "10 mm", FPS,
    "10 x camera_scale x (lm3d - mean shape): identity and expression without pose; NaN where not fitted",
)  # fmt: skip

# Column of the snapshot -> file of the export; names of the GeneFace line where it has one.
FILES = {
    "mel50": "mel50.npy",
    "f0_hz": "f0.npy",
    "voiced": "vuv.npy",
    "rms": "rms.npy",
    "mel": "mel80.npy",
    "hubert": "hubert.npy",
    "landmarks": "lm68.npy",
    "landmarks_valid": "valid.npy",
    "landmarks478": "lm478.npy",
    "bbox": "bbox.npy",
    "blendshapes": "bs52.npy",
    "blendshapes_valid": "bs52_valid.npy",
    "head_pose": "mp_pose.npy",
}


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """One array of the layout.

    Attributes:
        path: The path relative to the clip's folder.
        extractor, column: The column of the snapshot that it holds.
    """

    path: str
    extractor: str
    column: Column


def array_files(snapshot: Snapshot) -> list[ArrayFile]:
    """The arrays of the layout that the snapshot has: those of FILES, and every one of face3d under face3d/."""
    found = []
    for extractor, columns in feature_columns(snapshot).items():
        for column in columns:
            if extractor == FACE3D and column.shape:
                found.append(ArrayFile(f"{FACE3D}/{column.name}.npy", extractor, column))
            elif column.name in FILES:
                found.append(ArrayFile(FILES[column.name], extractor, column))
    return found


def absences(arrays: Sequence[ArrayFile]) -> list[str]:
    """One line about the files that no feature of the snapshot can fill."""
    have = {array.path.partition("/")[0] for array in arrays}
    lacking = [path for path in (*FILES.values(), FACE3D) if path not in have]
    return [f"the snapshot has no feature for {', '.join(lacking)}"] if lacking else []


def snapshot_shape_model(snapshot: Snapshot) -> ShapeModel | str:
    """The shape model that the snapshot's face3d was fitted with, or why it cannot be loaded here."""
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
    return (IDEXP_SCALE * face3d["camera_scale"] * (face3d["lm3d"] - model.mean)).astype(np.float32)


def readme(
    summary: ExportSummary, files: Sequence[tuple[str, Column]], face_models: Sequence[str], has_frames: bool
) -> str:
    """README.txt: the meaning of each file.

    Args:
        summary: The summary of the export.
        files: The path in a clip's folder and the column that it holds.
        face_models: The names of the shape models that face3d/ was fitted with, none without face3d.
        has_frames: True when the frames are exported.
    """
    faces = ["There is no 3DMM fit in this snapshot (feature face3d)."]
    if face_models:
        faces = [
            f"face3d/ is fitted with the shape model {', '.join(face_models)}.",
            "Unless that names BFM it is not the Basel Face Model: coefficients of different shape models",
            "must not be mixed, and networks trained on BFM's do not understand these.",
        ]
    arrays = []
    for path, column in files:
        shape = ", ".join(str(size) for size in column.shape)
        unit = f" {column.unit}" if column.unit else ""
        arrays.append(f"  {path:<29} {column.dtype} [{shape}]{unit}: {column.doc}")
    lines = [
        "A snapshot of talkset, one folder per clip. No file needs pickle: load arrays with numpy.load.",
        f"Dataset {summary.dataset}, snapshot {summary.snapshot_number} ({summary.snapshot_id}).",
        "",
        "N = frames at 25 fps; 2N = rows at 50 Hz; T80 = 1 + 640 N // 200 rows at 80 Hz.",
        "Missing is NaN, and False in valid.npy. Pixels are those of the stored frame (the square crop):",
        "x to the right, y down, the centre of the first pixel is (0, 0).",
        "",
        "splits/{train,val,test}.json    clip folders; no subject stands in two splits",
        "emotions.json                   names by emotion id, 0 to 7; -1 in a manifest: no such label",
        "names.json                      folder -> clip name in the snapshot, where they differ",
        "excluded.json                   kept clips that are not here: none, a clip without a face has NaN rows",
        "",
        "clips/<clip>/",
        "  manifest.json                 labels, emotion id, times, hashes; dtype, shape and unit of every array",
        "  audio.wav                     16 kHz mono PCM16, 640 N samples",
        *(["  img/00000000.jpg              N frames, RGB, counted from 0"] if has_frames else []),
        *arrays,
        "",
        *faces,
        *summary.notes,
    ]
    return "\n".join(lines).rstrip() + "\n"
