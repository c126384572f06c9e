"""What all exports share: the summary, a folder that appears whole, and small deterministic files."""

import io
import json
import os
import shutil
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from storage.errors import ConfigError, LockedError
from storage.files import fsync_dir, make_dir, out_of_space
from storage.snapshot import ClipRef, Snapshot
from storage.timelaw import SAMPLE_RATE_HZ

Progress = Callable[[], None]  # called once per clip, written or excluded

SUMMARY_FILE = "export.json"


@dataclass(slots=True)
class ExportSummary:
    """The contents of an export; also written into it as export.json.

    Attributes:
        kind: One of 'edtalk', 'emogene' and 'webdataset'.
        dataset, snapshot_number, snapshot_id: The snapshot it was made of.
        num_clips, num_frames: The number of written clips and frames.
        num_bytes: The size of all files, export.json aside.
        splits: Split -> number of written clips.
        excluded: Clip name -> the reason why it is not in the export at all.
        counts: Further numbers, named where they are counted.
        notes: Remarks for the user of this export.
    """

    kind: str
    dataset: str
    snapshot_number: int
    snapshot_id: str
    num_clips: int = 0
    num_frames: int = 0
    num_bytes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(kind: str, snapshot: Snapshot) -> "ExportSummary":
        """An empty summary for a snapshot."""
        return ExportSummary(kind, snapshot.body.dataset, snapshot.body.number, snapshot.id)

    def add(self, split: str, num_frames: int) -> None:
        """Counts one written clip."""
        self.num_clips += 1
        self.num_frames += num_frames
        self.splits[split] = self.splits.get(split, 0) + 1


@contextmanager
def new_folder(out: Path, summary: ExportSummary) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and is gone when it does not.

    What a killed export left beside `out` is removed by the next one. `summary` is written last.

    Raises:
        ConfigError: `out` exists and is not an empty folder.
        LockedError: another process is exporting to the same place.
        OutOfSpace: the disk is full; there is no `out`.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder; name a new one or remove it")
    entry = out.with_name(f".{out.name}.export")
    make_dir(entry)
    lock = FileLock(entry / "owner.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(f"{out}: another process is exporting to this place; wait for it or name another") from None
    try:
        with out_of_space(out):
            shutil.rmtree(entry / "tree", ignore_errors=True)
            (entry / "tree").mkdir()
            yield entry / "tree"
            files = (path for path in (entry / "tree").rglob("*") if path.is_file())
            summary.num_bytes = sum(path.stat().st_size for path in files)
            write_json(entry / "tree" / SUMMARY_FILE, asdict(summary))
            os.sync()  # tens of thousands of small files: one call instead of one per file
            (entry / "tree").rename(out)
            fsync_dir(out.parent)
    finally:
        shutil.rmtree(entry, ignore_errors=True)
        lock.release()


def kept_clips(snapshot: Snapshot) -> list[tuple[dict[str, Any], ClipRef]]:
    """(row of the clip table, where the clip lies) of the kept clips, in the order of the table.

    Raises:
        ConfigError: there is none.
    """
    rows = snapshot.rows()
    if not rows:
        raise ConfigError(f"snapshot {snapshot.body.number} of {snapshot.body.dataset} keeps no clip; see its report")
    return list(zip(rows, snapshot.clips(), strict=True))


def require_features(snapshot: Snapshot, names: tuple[str, ...], kind: str) -> None:
    """Refuses before anything is written when the snapshot lacks an extractor.

    Raises:
        ConfigError: names the missing ones and how to get them.
    """
    have = [set(shard.features) for shard in snapshot.body.shards]
    missing = [name for name in names if not all(name in features for features in have)]
    if missing:
        raise ConfigError(
            f"the {kind} export needs the features {', '.join(missing)}, which snapshot {snapshot.body.number} lacks;"
            f" add them to the dataset's `features` in datasets.yaml and run `talkset refresh`"
        )


def write_json(path: Path, value: Any) -> None:
    """A JSON file for people and programs: UTF-8, indented, keys in the given order; NaN is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_array(path: Path, array: NDArray[Any]) -> None:
    """A .npy file without pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ascontiguousarray(array), allow_pickle=False)


def write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    """A wav file of `wav_bytes`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(samples))


def wav_bytes(samples: NDArray[np.float32]) -> bytes:
    """A 16 kHz mono PCM16 file of samples [n] in [-1, 1]; what the store holds as PCM16 comes back bit for bit."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(SAMPLE_RATE_HZ)
        wav.writeframes(np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes())
    return stream.getvalue()


def plain_number(value: Any) -> Any:
    """NaN and infinity as None: JSON cannot hold them."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
