"""What was found out about a file, remembered by what the file system says of it.

A file is read again when its size, mtime, ctime or inode changed. ctime cannot be set by a program, so content that
was rewritten under the same name, size and mtime is still noticed.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.files import replace_durable
from storage.keys import sha256_file

# A file that changed this shortly before it was hashed may change again within the clock's tick: hash it next time too.
_RACY_NS = 2_000_000_000
_SAVE_EVERY = 2000


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Digest (hex), length in bytes, and seconds of video as the header claims (0.0 when it is no video)."""

    sha256: str
    num_bytes: int
    seconds: float


class HashCache:
    """Facts of files by absolute path, kept in one JSON file.

    Args:
        file: where the cache lies; a missing or damaged one only costs time.
        measure: path -> seconds of video, 0.0 when unknown; called once per new or changed file.
    """

    def __init__(self, file: Path, measure: Callable[[Path], float]) -> None:
        self._file = file
        self._measure = measure
        self._entries = _load(file)
        self._num_new = 0
        self._seen: dict[str, list[int | float | str]] = {}

    def facts(self, path: Path) -> FileFacts:
        """Facts of `path`; the file is only read when it is new or changed.

        Raises:
            OSError: it cannot be read.
        """
        if not os.access(path, os.R_OK):
            raise PermissionError(13, "Permission denied", str(path))
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        key = os.fsencode(path).hex()
        entry = self._entries.get(key)
        if entry is not None and entry[:4] == stamp:
            facts = FileFacts(str(entry[4]), state.st_size, float(entry[5]))
        else:
            now = time.time_ns()
            facts = FileFacts(sha256_file(path)[0], state.st_size, self._measure(path))
            if now - state.st_ctime_ns < _RACY_NS:
                return facts
            self._num_new += 1
        self._seen[key] = [*stamp, facts.sha256, facts.seconds]
        if self._num_new >= _SAVE_EVERY:
            # A killed run must not hash terabytes again; entries not seen yet are kept, they may still come.
            self._write({**self._entries, **self._seen})
            self._num_new = 0
        return facts

    def save(self) -> None:
        """Writes what this run saw; files that are gone drop out."""
        if self._seen != self._entries:
            self._write(self._seen)

    def _write(self, entries: dict[str, list[int | float | str]]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        replace_durable(self._file, json.dumps(entries).encode())


def _load(file: Path) -> dict[str, list[int | float | str]]:
    try:
        entries = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
