"""WebDataset export: tar files of bounded size whose members belong together by name; equal snapshots give equal bytes.

    <key>.json                labels, scores, number of frames
    <key>.wav                 16 kHz mono PCM16, 640 N samples
    <key>.frames.mjpeg        the N JPEG frames one after the other
    <key>.frame_offsets.npy   int64 [N + 1]: frame i is bytes offsets[i] to offsets[i + 1] of frames.mjpeg
    <key>.<column>.npy        one per array column of the features

The key is the clip's name without dots (a reader splits names at the first one). All samples have the same members,
whatever their length, as readers with a fixed schema require; hence one member for all frames.
"""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.emotions import emotion_id
from storage.snapshot import ClipRef, Snapshot, feature_columns
from storage.timelaw import FPS, SAMPLE_RATE_HZ
from tasks.export.names import export_names, renamed, safe_name
from tasks.export.output import ExportSummary, Progress, kept_clips, new_folder, plain_number, wav_bytes, write_json

MAX_SHARD_BYTES = 512 << 20

_README = f"""{(__doc__ or "").strip()}

Tar files with their sizes and digests: index.json. Keys that differ from the clips' names: names.json.
"""


@dataclass(frozen=True, slots=True)
class TarShard:
    """One tar file of the index.

    Attributes:
        file: Its file name, `train-000000.tar`.
        split: The split of all its clips.
        num_clips, num_frames, num_bytes: Its contents and its size.
        sha256: The hash of the file.
    """

    file: str
    split: str
    num_clips: int
    num_frames: int
    num_bytes: int
    sha256: str


def export_webdataset(
    snapshot: Snapshot, out: Path, progress: Progress | None = None, max_shard_bytes: int = MAX_SHARD_BYTES
) -> ExportSummary:
    """Writes the kept clips into `<split>-000000.tar`, `<split>-000001.tar` and so on, with an index.json.

    Clips are in an order fixed by the hash of their keys, so that neighbours in a tar come from different sources.

    Args:
        snapshot: all array columns of all its features are taken.
        out: A new folder.
        progress: Called once per clip.
        max_shard_bytes: no tar is larger, unless a single clip is.

    Raises:
        ConfigError: `out` is taken, or no clip is kept.
        OutOfSpace: the disk is full; there is no `out`.
    """
    clips = sorted(kept_clips(snapshot), key=lambda pair: hashlib.sha256(pair[1].clip.encode()).digest())
    rows = [row for row, _ in clips]
    names = export_names(rows, lambda name: safe_name(name, also="."))
    members = _array_members(snapshot)
    summary = ExportSummary.of("webdataset", snapshot)
    with new_folder(out, summary) as tree:
        shards: list[TarShard] = []
        for split in sorted({row["split"] for row in rows}):
            writer = _ShardWriter(tree, split, max_shard_bytes)
            for row, clip in clips:
                if row["split"] == split:
                    writer.add(_sample(snapshot, row, clip, names[row["clip"]], members), clip.num_frames)
                    summary.add(split, clip.num_frames)
                    if progress:
                        progress()
            shards += writer.finish()
        summary.counts["shards"] = len(shards)
        index = {
            "dataset": summary.dataset,
            "snapshot_number": summary.snapshot_number,
            "snapshot_id": summary.snapshot_id,
            "members": ["json", "wav", "frames.mjpeg", "frame_offsets.npy", *members.values()],
            "shards": [asdict(shard) for shard in shards],
        }
        write_json(tree / "index.json", index)
        write_json(tree / "names.json", renamed(rows, names))
        write_json(tree / "excluded.json", {"clips": {}})
        (tree / "README.txt").write_text(_README, encoding="utf-8")
    return summary


def _array_members(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    """(extractor, column) -> member suffix of every array; the extractor is named where columns share a name."""
    arrays = [
        (extractor, column.name)
        for extractor, columns in feature_columns(snapshot).items()
        for column in columns
        if column.shape and column.dtype != "string"
    ]
    times = Counter(column for _, column in arrays)
    return {
        (extractor, column): f"{column}.npy" if times[column] == 1 else f"{extractor}_{column}.npy"
        for extractor, column in arrays
    }


# ---- samples


def _sample(
    snapshot: Snapshot, row: Mapping[str, Any], clip: ClipRef, key: str, members: Mapping[tuple[str, str], str]
) -> bytes:
    """All members of a clip as a piece of a tar file."""
    frames = snapshot.frames(clip.shard)
    jpegs = [frames.jpeg(clip.clip, index) for index in range(clip.num_frames)]
    offsets = np.cumsum([0, *(len(jpeg) for jpeg in jpegs)], dtype=np.int64)
    hidden = {"shard_id", "row", "is_kept", "reason", "detail"}
    labels = {name: plain_number(value) for name, value in row.items() if name not in hidden}
    labels |= {"emotion_id": emotion_id(row["emotion"]), "fps": FPS, "sample_rate_hz": SAMPLE_RATE_HZ}
    contents = {
        "json": json.dumps(labels, sort_keys=True, ensure_ascii=False, allow_nan=False).encode(),
        "wav": wav_bytes(snapshot.audio(clip)),
        "frames.mjpeg": b"".join(jpegs),
        "frame_offsets.npy": _npy(offsets),
    }
    for extractor in sorted({extractor for extractor, _ in members}):
        columns = [column for owner, column in members if owner == extractor]
        values = snapshot.feature(clip, extractor, columns)
        contents |= {members[extractor, column]: _npy(values[column]) for column in columns}
    return b"".join(_member(f"{key}.{suffix}", data) for suffix, data in contents.items())


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _member(name: str, data: bytes) -> bytes:
    """Header, content and padding of one file; nothing of it depends on the time, the user or the machine."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 0
    header = info.tobuf(tarfile.PAX_FORMAT)
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)


# ---- tar files


class _ShardWriter:
    """Distributes the samples of one split over tar files; samples are written as they come."""

    def __init__(self, folder: Path, split: str, max_bytes: int) -> None:
        self._folder, self._split, self._max_bytes = folder, split, max_bytes
        self._tar: _Tar | None = None
        self._shards: list[TarShard] = []

    def add(self, sample: bytes, num_frames: int) -> None:
        """Adds one sample, in a new tar when it does not fit the current one."""
        if self._tar and _tar_bytes(self._tar.num_bytes + len(sample)) > self._max_bytes:
            self._shards.append(self._tar.finish(self._split))
            self._tar = None
        if self._tar is None:
            self._tar = _Tar(self._folder / f"{self._split}-{len(self._shards):06d}.tar")
        self._tar.write(sample)
        self._tar.num_clips += 1
        self._tar.num_frames += num_frames

    def finish(self) -> list[TarShard]:
        """Ends the last tar; returns all."""
        return [*self._shards, self._tar.finish(self._split)] if self._tar else self._shards


class _Tar:
    """One tar file while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_clips = self.num_frames = self.num_bytes = 0
        self._stream, self._digest = path.open("wb"), hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.num_bytes += len(data)

    def finish(self, split: str) -> TarShard:
        self.write(bytes(_tar_bytes(self.num_bytes) - self.num_bytes))
        self._stream.close()
        digest = self._digest.hexdigest()
        return TarShard(self.path.name, split, self.num_clips, self.num_frames, self.num_bytes, digest)


def _tar_bytes(content_bytes: int) -> int:
    """Size of a tar file: two empty blocks at the end, filled up to a whole record."""
    with_end = content_bytes + 2 * tarfile.BLOCKSIZE
    return -(-with_end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
