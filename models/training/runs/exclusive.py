"""Exclusive use of something by one process at a time: an flock, freed by the kernel however its holder dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from storage.errors import LockedError, PreflightError


@contextmanager
def exclusive(lock: Path, refusal: str) -> Iterator[None]:
    """Holds the lock file inside the block; does not wait for another holder.

    Raises:
        LockedError: somebody else holds it; the message is `refusal`.
        PreflightError: the file cannot be written.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise LockedError(refusal) from error
    except OSError as error:
        raise PreflightError(f"{lock}: cannot be locked ({error.strerror}); remove it or make it writable") from error
    try:
        yield
    finally:
        held.release()
