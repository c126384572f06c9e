"""EDTalk export: the tree, names, dtypes, LMDB keys and list files that EDTalk's training scripts read.

Source: Tan et al., EDTalk, ECCV 2024, and its released data layout.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.frame_store import LmdbExportWriter
from storage.snapshot import ClipRef, Snapshot
from storage.timelaw import mel_windows
from tasks.export.edtalk_lists import HDTF_FOLDER, MEAD_FOLDER, Listed, clip_lists, dataset_folder, edtalk_name
from tasks.export.names import export_names, renamed
from tasks.export.output import (
    ExportSummary,
    Progress,
    kept_clips,
    new_folder,
    require_features,
    write_array,
    write_json,
    write_wav,
)

LMDB_FOLDER = "EDTalk_lmdb"
NEEDS = ("mel", "landmarks", "bbox")
JPEG_QUALITY = 95

_AUDIO_FOLDER = {MEAD_FOLDER: "audio", HDTF_FOLDER: "split_5s_audio"}
_README = """\
A snapshot of talkset in the layout of EDTalk's training scripts: 25 fps, 16 kHz, {size} x {size} px.
Dataset {dataset}, snapshot {number} ({id}).

{lmdb}/                 one LMDB environment; keys <clip>-0000012 (JPEG, RGB), <clip>-length and length (7-digit text)
MEAD_front/  HDTF/           clips named ID#emotion#level_N#NNN, and video#k
  mel/<clip>.npy             float32 [N, 1, 80, 16]: the 16 mel columns around each frame
  landmark/<clip>.npy        int64 [N, 68, 2]: x, y in px, iBUG-68
  landmark/<clip>.valid.npy  bool [N]: False where the landmarks were not found but interpolated
  bbox/<clip>.npy            int64 [N, 4]: x1, y1, x2, y2 in px; bbox/<clip>.valid.npy as above
  audio/ split_5s_audio/     <clip>.wav, 16 kHz mono PCM16, 640 samples per frame
HDTF/ldmk                    the same files as HDTF/landmark (hard links): the scripts write one and read the other
train.json test.json lists/  clip names per stage and split; identities never stand in two splits
excluded.json                clips that are not in the export, and clips that one of the lists leaves out, with reasons
names.json                   name here -> name in the snapshot, where they differ
export.json                  counts

Every array has one row per frame of the LMDB. Integers cannot say "missing": frames whose face was not found are
interpolated between their neighbours (at the ends: the nearest known row) and False in the mask. Segment numbers are
those of the snapshot, so a dropped segment leaves a gap.
"""


def export_edtalk(snapshot: Snapshot, out: Path, progress: Progress | None = None, size_px: int = 256) -> ExportSummary:
    """Writes the kept clips of a snapshot as EDTalk's scripts read them.

    Args:
        snapshot: A snapshot with the features mel, landmarks and bbox.
        out: A new folder.
        progress: Called once per clip.
        size_px: The side of the frames; stored frames of this size are copied byte for byte, others encoded again.

    Raises:
        ConfigError: `out` is taken, a feature is missing, or no clip is kept.
        OutOfSpace: the disk is full; there is no `out`.
    """
    require_features(snapshot, NEEDS, "edtalk")
    clips = kept_clips(snapshot)
    rows = [row for row, _ in clips]
    names = export_names(rows, edtalk_name)
    summary = ExportSummary.of("edtalk", snapshot)
    summary.counts = {"landmark_frames_filled": 0, "bbox_frames_filled": 0, "frames_encoded_again": 0}
    with new_folder(out, summary) as tree:
        for folder in (MEAD_FOLDER, HDTF_FOLDER):
            for kind in ("bbox", "landmark", "mel", _AUDIO_FOLDER[folder]):
                (tree / folder / kind).mkdir(parents=True)
        (tree / HDTF_FOLDER / "ldmk").mkdir()
        listed = []
        with LmdbExportWriter(tree / LMDB_FOLDER) as frames:
            for row, clip in clips:
                listed += _export_clip(snapshot, row, clip, _Target(tree, names[row["clip"]], size_px), frames, summary)
                if progress:
                    progress()
        lists = clip_lists(listed)
        for path, members in lists.files.items():
            write_json(tree / path, members)
        write_json(tree / "excluded.json", {"clips": summary.excluded, "lists": lists.left_out})
        left_out = lists.left_out.items()
        summary.notes += lists.notes
        summary.notes += [f"{path}: {len(out)} clips left out, see excluded.json" for path, out in left_out]
        write_json(tree / "names.json", renamed(rows, names))
        readme = _README.format(size=size_px, dataset=summary.dataset, number=summary.snapshot_number,
                                id=summary.snapshot_id, lmdb=LMDB_FOLDER)  # fmt: skip
        (tree / "README.txt").write_text(readme, encoding="utf-8")
    return summary


class _Target:
    """The files of one clip.

    Attributes:
        name: The name of the clip in the export.
        size_px: The side of its frames.
    """

    def __init__(self, tree: Path, name: str, size_px: int) -> None:
        self.name, self.size_px = name, size_px
        self._tree, self._folder = tree, dataset_folder(name)

    def path(self, kind: str, suffix: str = ".npy") -> Path:
        """File of a kind ('mel', 'landmark', 'bbox', 'audio')."""
        folder = _AUDIO_FOLDER[self._folder] if kind == "audio" else kind
        return self._tree / self._folder / folder / f"{self.name}{suffix}"

    def write_filled(self, kind: str, values: NDArray[np.int64], is_valid: NDArray[np.bool_]) -> None:
        """Integer rows and their mask; HDTF's landmarks under both names the scripts use."""
        for suffix, array in ((".npy", values), (".valid.npy", is_valid)):
            write_array(self.path(kind, suffix), array)
            if (self._folder, kind) == (HDTF_FOLDER, "landmark"):
                try:
                    os.link(self.path(kind, suffix), self.path("ldmk", suffix))
                except OSError:  # a file system without hard links
                    shutil.copyfile(self.path(kind, suffix), self.path("ldmk", suffix))


def _export_clip(
    snapshot: Snapshot, row: Mapping[str, Any], clip: ClipRef, target: _Target, frames: LmdbExportWriter,
    summary: ExportSummary,
) -> list[Listed]:  # fmt: skip
    """Writes one clip; an empty list when it is excluded."""
    scale = target.size_px / row["size_px"]
    landmarks = snapshot.feature(clip, "landmarks", ["landmarks"])["landmarks"]
    filled = fill_missing(landmarks)
    if filled is None:
        summary.excluded[row["name"]] = "no frame has landmarks"
        return []
    points, has_points = filled
    target.write_filled("landmark", as_pixels(points, scale), has_points)
    boxes = fill_missing(snapshot.feature(clip, "bbox", ["bbox"])["bbox"])
    if boxes is not None:
        target.write_filled("bbox", np.clip(as_pixels(boxes[0], scale), 0, target.size_px - 1), boxes[1])
        summary.counts["bbox_frames_filled"] += int((~boxes[1]).sum())
    mel = snapshot.feature(clip, "mel", ["mel"])["mel"]
    write_array(target.path("mel"), mel_windows(mel, clip.num_frames).transpose(0, 2, 1)[:, None])
    write_wav(target.path("audio", ".wav"), snapshot.audio(clip))
    frames.put_clip(target.name, _jpegs(snapshot, clip, row["size_px"], target.size_px))
    summary.add(row["split"], clip.num_frames)
    summary.counts["landmark_frames_filled"] += int((~has_points).sum())
    summary.counts["frames_encoded_again"] += clip.num_frames * (row["size_px"] != target.size_px)
    return [Listed(target.name, row["split"], clip.num_frames, row["has_audio"], boxes is not None)]


def fill_missing(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Rows with NaN replaced, and which rows were known; None when none was.

    Args:
        values: [N, ...]; a row counts as known when all of it is finite.

    Returns:
        [N, ...] linear between the nearest known rows, constant before the first and after the last; mask [N].
    """
    is_known = np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if not is_known.any():
        return None
    known = values[is_known].astype(np.float64)
    position = np.interp(np.arange(len(values)), np.flatnonzero(is_known), np.arange(len(known)))
    before = np.floor(position).astype(np.int64)
    share = (position - before).reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * known[before] + share * known[np.minimum(before + 1, len(known) - 1)], is_known


def as_pixels(points: NDArray[np.floating], scale: float) -> NDArray[np.int64]:
    """Coordinates in an image `scale` times as large, to the nearest pixel; centres of pixels are integers."""
    return np.rint((points + 0.5) * scale - 0.5).astype(np.int64)


def _jpegs(snapshot: Snapshot, clip: ClipRef, stored_px: int, size_px: int) -> list[bytes]:
    """The frames as they are stored; encoded again where another size is wanted."""
    frames = snapshot.frames(clip.shard)
    if stored_px == size_px:
        return [frames.jpeg(clip.clip, index) for index in range(clip.num_frames)]
    jpegs = []
    how = cv2.INTER_AREA if size_px < stored_px else cv2.INTER_CUBIC
    for index in range(clip.num_frames):
        resized = cv2.resize(frames.frame(clip.clip, index), (size_px, size_px), interpolation=how)
        bgr = cv2.cvtColor(resized, cv2.COLOR_RGB2BGR)
        jpegs.append(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    return jpegs
