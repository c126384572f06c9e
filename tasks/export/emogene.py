"""EmoGene export: one folder of arrays per clip, as the GeneFace line of audio-driven heads lays out its features.

Sources: Ye et al., GeneFace++, 2023; EmoGene, FG 2025; RealTalk, ICCVW 2025 (which features they read).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.cut_tables import CLIP_KEY, CLIPS_FILE
from storage.emotions import EMOTIONS, emotion_id
from storage.snapshot import ClipRef, Snapshot
from storage.tables import Column, read_table, to_numpy
from storage.timelaw import FPS, SAMPLE_RATE_HZ
from tasks.export.emogene_layout import (
    CROP,
    FACE3D,
    IDEXP,
    absences,
    array_files,
    idexp_lm3d,
    readme,
    snapshot_shape_model,
)
from tasks.export.names import export_names, renamed, safe_name
from tasks.export.output import (
    ExportSummary,
    Progress,
    kept_clips,
    new_folder,
    plain_number,
    require_features,
    write_array,
    write_json,
    write_wav,
)
from tasks.face3d.shape_model import ShapeModel

NEEDS = ("mel50", "landmarks", "bbox")

_LABELS = (
    "name", "clip", "subject", "emotion", "level", "take", "view", "split", "layout", "num_frames", "has_audio",
    "start_s", "size_px",
)  # fmt: skip


def export_emogene(
    snapshot: Snapshot, out: Path, progress: Progress | None = None, has_frames: bool = True
) -> ExportSummary:
    """Writes every kept clip of a snapshot as a folder of .npy files with a manifest.

    Args:
        snapshot: A snapshot with the features mel50, landmarks and bbox; face3d, blendshapes, hubert and mel are
            exported when there.
        out: A new folder.
        progress: Called once per clip.
        has_frames: Also write the frames, byte for byte, as img/00000000.jpg and so on.

    Raises:
        ConfigError: `out` is taken, a feature is missing, or no clip is kept.
        OutOfSpace: the disk is full; there is no `out`.
    """
    require_features(snapshot, NEEDS, "emogene")
    clips = kept_clips(snapshot)
    names = export_names([row for row, _ in clips], safe_name)
    summary = ExportSummary.of("emogene", snapshot)
    writer = _ClipWriter(snapshot, summary)
    with new_folder(out, summary) as tree:
        for row, clip in clips:
            writer.write(tree / "clips" / names[row["clip"]], row, clip)
            if has_frames:
                folder, frames = tree / "clips" / names[row["clip"]] / "img", snapshot.frames(clip.shard)
                folder.mkdir()
                for index in range(clip.num_frames):
                    (folder / f"{index:08d}.jpg").write_bytes(frames.jpeg(clip.clip, index))
            summary.add(row["split"], clip.num_frames)
            if progress:
                progress()
        rows = [row for row, _ in clips]
        for split in ("train", "val", "test"):
            members = [names[row["clip"]] for row in rows if row["split"] == split]
            write_json(tree / "splits" / f"{split}.json", members)
        write_json(tree / "emotions.json", list(EMOTIONS))
        write_json(tree / "names.json", renamed(rows, names))
        write_json(tree / "excluded.json", {"clips": {}})
        text = readme(summary, writer.files(), sorted(writer.face_models), has_frames)
        (tree / "README.txt").write_text(text, encoding="utf-8")
    return summary


class _ClipWriter:
    """Writes the arrays, audio and manifest of one clip after the other.

    Attributes:
        face_models: The shape models of the clips written so far.
    """

    def __init__(self, snapshot: Snapshot, summary: ExportSummary) -> None:
        self._snapshot = snapshot
        self._arrays = array_files(snapshot)
        # Clip key -> source_to_crop [3, 3], of every clip of every shard.
        self._crops: dict[str, NDArray[np.float64]] = {}
        for shard in snapshot.body.shards:
            table = read_table(snapshot.objects.path(shard.cut.key) / CLIPS_FILE, [CLIP_KEY.name, "source_to_crop"])
            for at, clip in enumerate(table[CLIP_KEY.name].to_pylist()):
                self._crops[clip] = to_numpy(table, "source_to_crop", at)
        ids, hashes = (snapshot.source_table[name].to_pylist() for name in ("source_id", "sha256"))
        self._hashes = dict(zip(ids, hashes, strict=True))
        summary.notes = absences(self._arrays)
        self._shape_model: ShapeModel | None = None
        if any(array.extractor == FACE3D for array in self._arrays):
            found = snapshot_shape_model(snapshot)
            if isinstance(found, str):
                summary.notes.append(found)
            else:
                self._shape_model = found
        self.face_models: set[str] = set()

    def files(self) -> list[tuple[str, Column]]:
        """Every array of a clip's folder: path and column."""
        computed = [("idexp_lm3d.npy", IDEXP)] if self._shape_model else []
        return [*((array.path, array.column) for array in self._arrays), *computed, ("crop.npy", CROP)]

    def write(self, folder: Path, row: Mapping[str, Any], clip: ClipRef) -> None:
        """Fills one folder."""
        extractors = sorted({array.extractor for array in self._arrays})
        values = {name: self._snapshot.feature(clip, name) for name in extractors}
        arrays: dict[str, NDArray[Any]] = {"crop.npy": self._crops[row["clip"]]}
        if self._shape_model:
            arrays["idexp_lm3d.npy"] = idexp_lm3d(values[FACE3D], self._shape_model)
        arrays |= {file.path: values[file.extractor][file.column.name] for file in self._arrays}
        for path, array in arrays.items():
            write_array(folder / path, array)
        write_wav(folder / "audio.wav", self._snapshot.audio(clip))
        face3d = {name: plain_number(v) for name, v in values.get(FACE3D, {}).items() if not isinstance(v, np.ndarray)}
        if face3d:
            self.face_models.add(face3d["shape_model"])
        files = {
            path: {"dtype": column.dtype, "shape": list(arrays[path].shape), "unit": column.unit,
                   "rate_hz": column.rate_hz, "doc": column.doc}
            for path, column in self.files()
        }  # fmt: skip
        manifest = {
            "schema_version": 1,
            **{name: row[name] for name in _LABELS},
            "emotion_id": emotion_id(row["emotion"]),
            "fps": FPS,
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "pixel_frame": "stored frame (the crop); crop.npy maps the source to it",
            "landmark_map": "iBUG-68",
            "source_sha256": self._hashes[row["source_id"]],
            "snapshot_id": self._snapshot.id,
            "valid_share": float(np.mean(values["landmarks"]["landmarks_valid"])),
            "face3d": face3d,
            "files": files,
        }
        write_json(folder / "manifest.json", manifest)
