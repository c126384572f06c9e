"""The only place where the store writes small files, renames and syncs.

Everything durable goes through these few functions, so that a test can make the n-th system call fail, and so that
"the disk is full" is recognised in one place, whichever library noticed it.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import OutOfSpace

HOW_TO_REBUILD = "Delete the object's directory and run `talkset refresh`: it rebuilds what is missing."

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# torch.save does not raise OSError when a write comes back short
_FULL_MESSAGES = ("PytorchStreamWriter failed writing", "unexpected pos", "No space left on device")


def write_bytes_durable(path: Path, data: bytes) -> None:
    """Create a new file and sync it. Not atomic: for files inside a staging directory.

    Raises:
        FileExistsError: the file is there already.
        OutOfSpace: the disk is full.
    """
    with out_of_space(path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)


def replace_durable(path: Path, data: bytes) -> None:
    """Give a file new content: after a crash it has either the old or the new content, whole.

    Raises:
        OutOfSpace: the disk is full; the old content is untouched.
    """
    with _synced_sibling(path, data) as temporary:
        temporary.replace(path)
    fsync_dir(path.parent)


def create_exclusive(path: Path, data: bytes) -> None:
    """Publish a file that must not exist yet; it appears with its whole content, for exactly one of many callers.

    Raises:
        FileExistsError: another caller was first; its file is untouched.
        OutOfSpace: the disk is full; nothing is visible.
    """
    with _synced_sibling(path, data) as temporary:
        path.hardlink_to(temporary)
    fsync_dir(path.parent)


def fsync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    _fsync(path, os.O_RDONLY)


def fsync_dir(path: Path) -> None:
    """Bring a directory's entries to the disk: without it a rename may be forgotten by a power loss."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def make_dir(path: Path) -> None:
    """Make a directory and its missing parents, durably; it may exist."""
    with out_of_space(path):
        if path.is_dir():
            return
        make_dir(path.parent)
        try:
            path.mkdir()
        except FileExistsError:
            return
    fsync_dir(path.parent)


def make_read_only(path: Path) -> None:
    """Take the write permission off a file, so that a committed object is not edited by accident."""
    path.chmod(0o444)


def move_new(source: Path, target: Path) -> bool:
    """Rename a directory durably unless the target exists; False when it does (the source then stays)."""
    try:
        with out_of_space(target):
            source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    fsync_dir(target.parent)
    return True


def is_out_of_space(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, means that the disk, the quota or the file-size limit is exhausted."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in _FULL_ERRNOS:
        return True
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _FULL_MESSAGES):
        return True
    return is_out_of_space(error.__cause__ or error.__context__)


@contextmanager
def out_of_space(path: Path) -> Iterator[None]:
    """Turn every library's way of saying "disk full" into OutOfSpace naming the path; other errors pass unchanged."""
    try:
        yield
    except OutOfSpace:
        raise
    except Exception as error:
        if is_out_of_space(error):
            raise OutOfSpace(f"{path}: no space left ({error}). Free some and run again: nothing is lost.") from error
        raise


@contextmanager
def _synced_sibling(path: Path, data: bytes) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        write_bytes_durable(temporary, data)
        with out_of_space(path):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _fsync(path: Path, flags: int) -> None:
    with out_of_space(path):
        fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
