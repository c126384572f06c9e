"""One writer per store: an flock, which the kernel frees when its holder dies, however it dies."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from storage import files
from storage.errors import LockedError, PreflightError
from storage.store_layout import writer_file, writer_lock_file


@contextmanager
def writer_lock(store: Path, wait_s: float = 0) -> Iterator[None]:
    """Hold the store's writer lock; readers need none.

    Args:
        store: root directory of the store; made if missing.
        wait_s: how long to wait for another writer to finish.

    Raises:
        LockedError: another process (or another part of this one) still holds it; the message says who.
        PreflightError: the store cannot be written to.
    """
    holder = writer_file(store)
    lock = _acquire(store, wait_s, holder)
    try:
        start = datetime.now(UTC).isoformat(timespec="seconds")
        this_process = {"pid": os.getpid(), "host": socket.gethostname(), "start": start}
        files.replace_durable(holder, json.dumps(this_process).encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(store: Path, wait_s: float, holder: Path) -> FileLock:
    try:
        files.make_dir(store)
        lock = FileLock(writer_lock_file(store), poll_interval=0.02)
        lock.acquire(timeout=max(wait_s, 0))
    except Timeout as error:
        raise LockedError(
            f"{store} is being written by {_describe(holder)}. Wait for it (--wait SECONDS) or stop it."
        ) from error
    except (PermissionError, NotADirectoryError) as error:
        raise PreflightError(
            f"{store}: cannot be written ({error.strerror}). Choose another store or fix it."
        ) from error
    return lock


def _describe(holder: Path) -> str:
    try:
        found = json.loads(holder.read_bytes())
        return f"process {found['pid']} on {found['host']} since {found['start']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has only just started"
