"""Frames and audio of a shard's clips in one LMDB environment; the only module that imports LMDB.

Keys and values:

    <clip>-0000012    JPEG of frame 12, counted from 0
    <clip>-audio      PCM, little-endian int16, 16 kHz mono, 640 samples per frame
    <clip>-length     number of frames, seven ASCII digits

LMDB maps the file into memory: a file that is shorter than it claims kills the reader with SIGBUS, and an emptied one
opens as an empty data set. Every opener here therefore checks the file itself before LMDB touches it.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

import lmdb
import numpy as np
from numpy.typing import NDArray

from storage import files
from storage.errors import OutOfSpace, StoreCorrupt
from storage.lmdb_pages import BadPages, check_pages, set_map_size
from storage.timelaw import SAMPLES_PER_FRAME, num_samples

_DATA_NAME = "data.mdb"
_MAX_CLIP_BYTES = 480  # LMDB keys end at 511 bytes, the suffix included
# LMDB says "Input/output error" for a write that the full disk cut short
_FULL_MESSAGES = ("Input/output error", "No space left", "File too large", "quota exceeded")


class FrameStoreWriter:
    """Writes one environment; use it as a context manager, so that a failure leaves nothing.

    The same clips in the same order give the same bytes, whatever the map size or the process. Nothing is synced
    before the object store does it at commit.

    Args:
        path: directory to make; holds data.mdb, which may be read after `close`.
        map_size: first guess of the size in bytes; grown when it turns out too small.
    """

    def __init__(self, path: Path, map_size: int = 1 << 30) -> None:
        self.path = path
        self._clips: dict[str, int] = {}
        files.make_dir(path)
        if (path / _DATA_NAME).exists():
            raise FileExistsError(f"{path / _DATA_NAME}: environments are written once")
        with _full_disk(path):
            # never writemap: a full disk would kill the process; no lock: no other process uses this directory yet
            self._env = lmdb.open(str(path), map_size=map_size, sync=False, lock=False)

    def put_clip(self, clip: str, jpegs: Sequence[bytes], audio_pcm16: NDArray[np.int16]) -> None:
        """Add a clip of N frames in one transaction.

        Args:
            clip: its name, new to this environment.
            jpegs: N encoded frames, N >= 1.
            audio_pcm16: [640 * N] int16, 16 kHz mono.

        Raises:
            ValueError: the name is taken, empty or too long, or the audio has another length.
            OutOfSpace: the disk is full.
        """
        self._check(clip, jpegs, audio_pcm16)
        records = [(f"{clip}-{index:07d}".encode(), jpeg) for index, jpeg in enumerate(jpegs)]
        records.append((f"{clip}-audio".encode(), audio_pcm16.astype("<i2").tobytes()))
        records.append((f"{clip}-length".encode(), f"{len(jpegs):07d}".encode()))
        with _full_disk(self.path):
            self._reserve(records)
            with self._env.begin(write=True) as txn:
                for key, value in records:
                    txn.put(key, value, overwrite=False)
        self._clips[clip] = len(jpegs)

    def drop_clip(self, clip: str) -> None:
        """Remove a clip that was put, because its source turned out to be unusable. The next clips reuse its pages.

        Raises:
            KeyError: there is no such clip.
        """
        suffixes = [*(f"{index:07d}" for index in range(self._clips.pop(clip))), "audio", "length"]
        with _full_disk(self.path):
            self._reserve([(suffix.encode(), b"") for suffix in suffixes])  # deleting copies tree pages, too
            with self._env.begin(write=True) as txn:
                for suffix in suffixes:
                    txn.delete(f"{clip}-{suffix}".encode())

    def close(self) -> None:
        """Finish data.mdb.

        Raises:
            OutOfSpace: the disk is full; there is no data.mdb.
        """
        try:
            with _full_disk(self.path):
                page_bytes = self._page_bytes
                size = (self._env.info()["last_pgno"] + 1) * page_bytes
                self._env.close()
                # the last pages may have been taken but not needed, hence not written
                os.truncate(self.path / _DATA_NAME, size)
                # the map size is no part of the content: equal content shall be equal bytes
                set_map_size(self.path / _DATA_NAME, page_bytes, size)
        except BaseException:
            self._drop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._drop()

    def _check(self, clip: str, jpegs: Sequence[bytes], audio_pcm16: NDArray[np.int16]) -> None:
        if not 0 < len(clip.encode()) <= _MAX_CLIP_BYTES or "\0" in clip:
            raise ValueError(f"clip name {clip!r}: expected 1 to {_MAX_CLIP_BYTES} bytes without NUL")
        if clip in self._clips:
            raise ValueError(f"clip {clip} is already in {self.path}")
        if not jpegs or not all(jpegs):
            raise ValueError(f"clip {clip}: no frames, or an empty one")
        if audio_pcm16.dtype != np.int16 or audio_pcm16.shape != (num_samples(len(jpegs)),):
            raise ValueError(
                f"clip {clip}: audio is {audio_pcm16.dtype} {audio_pcm16.shape},"
                f" expected int16 [{SAMPLES_PER_FRAME} * {len(jpegs)} frames]"
            )

    @property
    def _page_bytes(self) -> int:
        return self._env.stat()["psize"]

    def _reserve(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        # Growing before the transaction instead of after MapFullError: an aborted transaction leaves its bytes in
        # recycled pages, and so in the file, whose bytes would then depend on the map size.
        info, page_bytes = self._env.info(), self._page_bytes
        used = (info["last_pgno"] + 1) * page_bytes
        # every value on pages of its own, as many again for the tree, and room for copies of what exists of it
        needed = sum(len(value) + 4 * page_bytes for _, value in records) + used // 8 + (1 << 20)
        if used + needed > info["map_size"]:
            self._env.set_mapsize(2 * (used + needed))

    def _drop(self) -> None:
        self._env.close()
        shutil.rmtree(self.path, ignore_errors=True)


class FrameStore:
    """Reads one environment. Opens at the first read, again in every forked process, and can be pickled.

    Args:
        path: directory with data.mdb.
        expected_bytes: size of data.mdb by the object's manifest, None to trust the file's own header.

    Every method raises StoreCorrupt naming the file when the environment is damaged, KeyError for an unknown clip.
    """

    def __init__(self, path: Path, expected_bytes: int | None = None) -> None:
        self.path = path
        self.expected_bytes = expected_bytes
        self._reader: _Reader | None = None
        self._names: tuple[str, ...] | None = None

    def clips(self) -> tuple[str, ...]:
        """Names of all clips, sorted by their UTF-8 bytes."""
        if self._names is None:
            names = [key.removesuffix("-length") for key in self.keys() if key.endswith("-length")]
            self._names = tuple(sorted(names, key=str.encode))
        return self._names

    def num_frames(self, clip: str) -> int:
        """Number of frames of a clip."""
        value = self._get(f"{clip}-length")
        if value is None:
            raise KeyError(f"no clip {clip} in {self.path}")
        if len(value) != 7 or not value.isdigit():
            raise self._corrupt(f"length of {clip} is {value!r}")
        return int(value)

    def jpeg(self, clip: str, index: int) -> bytes:
        """Encoded frame, as it was put.

        Raises:
            IndexError: the clip has no such frame.
        """
        value = self._get(f"{clip}-{index:07d}") if index >= 0 else None
        if value is None:
            if not 0 <= index < self.num_frames(clip):
                raise IndexError(f"frame {index} of {clip}, which has {self.num_frames(clip)}")
            raise self._corrupt(f"frame {index} of {clip} is missing")
        return value

    def frame(self, clip: str, index: int) -> NDArray[np.uint8]:
        """Decoded frame: [H, W, 3] uint8 RGB.

        Raises:
            IndexError: the clip has no such frame.
        """
        import cv2

        image = cv2.imdecode(np.frombuffer(self.jpeg(clip, index), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise self._corrupt(f"frame {index} of {clip} is not an image")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def audio(self, clip: str) -> NDArray[np.float32]:
        """Audio of a clip of N frames: [640 * N] float32 in [-1, 1), 16 kHz mono."""
        num_frames, value = self.num_frames(clip), self._get(f"{clip}-audio")
        if value is None or len(value) != 2 * num_samples(num_frames):
            raise self._corrupt(f"audio of {clip} is missing or has a wrong length")
        return np.frombuffer(value, "<i2").astype(np.float32) / np.float32(32768)

    def keys(self) -> Iterator[str]:
        """All keys, in LMDB's order."""
        with self._env().begin() as txn, txn.cursor() as cursor, _reading(self.path):
            for key in cursor.iternext(keys=True, values=False):
                yield key.decode()

    def close(self) -> None:
        """Forget the open environment; the next read opens it again."""
        self._reader = None

    def __reduce__(self) -> tuple[type[Self], tuple[Path, int | None]]:
        return type(self), (self.path, self.expected_bytes)

    def _env(self) -> "lmdb.Environment":
        if self._reader is None or self._reader.pid != os.getpid():
            self._reader = _open_reader(self.path, self.expected_bytes)
        return self._reader.env

    def _get(self, key: str) -> bytes | None:
        with _reading(self.path), self._env().begin() as txn:
            return txn.get(key.encode())

    def _corrupt(self, what: str) -> StoreCorrupt:
        return _corrupt(self.path, what)


def record_digests(path: Path) -> Iterator[tuple[str, str]]:
    """Key and SHA-256 (64 hex digits) of every record's value: LMDB has no checksums of its own.

    Raises:
        StoreCorrupt: the environment is damaged.
    """
    reader = _open_reader(path, None)
    with reader.env.begin() as txn, txn.cursor() as cursor, _reading(path):
        for key, value in cursor.iternext():
            yield key.decode(), sha256(value).hexdigest()


# ---- opening


@dataclass(slots=True, weakref_slot=True)
class _Reader:
    env: "lmdb.Environment"
    pid: int


@dataclass(slots=True)
class _Readers:
    """Environments open in one process: LMDB allows one per file, so all stores over a file share it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    by_inode: "WeakValueDictionary[tuple[int, int], _Reader]" = field(default_factory=WeakValueDictionary)


_readers_by_pid: dict[int, _Readers] = {}


def _open_reader(path: Path, expected_bytes: int | None) -> _Reader:
    pid = os.getpid()
    readers = _readers_by_pid.setdefault(pid, _Readers())  # keyed by pid: a fork may inherit the parent's lock taken
    with readers.lock, _reading(path):
        _close_inherited(pid)
        found = (path / _DATA_NAME).stat()
        if expected_bytes is not None and found.st_size != expected_bytes:
            raise BadPages(f"has {found.st_size} bytes, expected {expected_bytes}")
        reader = readers.by_inode.get((found.st_dev, found.st_ino))
        if reader is None:
            check_pages(path / _DATA_NAME)
            env = lmdb.open(str(path), readonly=True, create=False, lock=False, readahead=False)
            reader = readers.by_inode[found.st_dev, found.st_ino] = _Reader(env, pid)
    return reader


def _close_inherited(pid: int) -> None:
    # LMDB refuses to open a file again while the environment of the parent process is open in the child
    for parent in [other for other in _readers_by_pid if other != pid]:
        for reader in list(_readers_by_pid.pop(parent).by_inode.values()):
            reader.env.close()


def _corrupt(path: Path, what: str) -> StoreCorrupt:
    return StoreCorrupt(f"{path / _DATA_NAME}: {what}. {files.HOW_TO_REBUILD}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (BadPages, OSError, lmdb.Error, UnicodeDecodeError) as error:
        raise _corrupt(path, str(error)) from error


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        with files.out_of_space(path):
            yield
    except lmdb.Error as error:
        if not any(text in str(error) for text in _FULL_MESSAGES):
            raise
        raise OutOfSpace(
            f"{path}: LMDB could not write ({error}). Free space and run again: nothing is lost."
        ) from error


# ---- export


class LmdbExportWriter:
    """Writes frames of all clips into one environment, keyed as EDTalk's readers expect; use it as a context manager.

        <clip>-0000012    JPEG of frame 12, counted from 0
        <clip>-length     number of frames, seven ASCII digits
        length            number of clips, seven ASCII digits

    Equal clips in equal order give equal bytes; a failure leaves nothing.

    Args:
        path: directory to make; holds data.mdb, which may be read after the block.
    """

    def __init__(self, path: Path) -> None:
        self._writer = FrameStoreWriter(path)
        self._num_clips = 0

    def put_clip(self, clip: str, jpegs: Sequence[bytes]) -> None:
        """Add a clip in one transaction.

        Args:
            clip: its name, new to this environment.
            jpegs: its N encoded frames, N >= 1.

        Raises:
            ValueError: the name is taken, empty or too long, or there is no frame.
            OutOfSpace: the disk is full.
        """
        self._writer._check(clip, jpegs, np.zeros(num_samples(len(jpegs)), np.int16))
        records = [(f"{clip}-{index:07d}".encode(), jpeg) for index, jpeg in enumerate(jpegs)]
        self._put([*records, (f"{clip}-length".encode(), f"{len(jpegs):07d}".encode())])
        self._writer._clips[clip] = len(jpegs)
        self._num_clips += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._put([(b"length", f"{self._num_clips:07d}".encode())])
        self._writer.__exit__(kind, error, trace)

    def _put(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        with _full_disk(self._writer.path):
            self._writer._reserve(records)
            with self._writer._env.begin(write=True) as txn:
                for key, value in records:
                    txn.put(key, value, overwrite=False)
