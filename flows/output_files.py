"""Output files of a command: whether they can be written is known before anything is computed, as far as it can be."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError, PreflightError
from storage.files import make_dir, out_of_space, replace_durable


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path] = ()) -> None:
    """Makes the folders of files that are to be written.

    Args:
        outputs: the files; those that exist are going to be replaced.
        inputs: files that are read and must stay; some may be no files at all.

    Raises:
        ConfigError: an output is an input, by whatever path.
        PreflightError: an output is a folder, or its folder cannot be made or written to.
    """
    for path in outputs:
        for given in inputs:
            if _is_same(path, given):
                raise ConfigError(f"{path} would be overwritten, but it is read ({given}); name another file to write")
        if path.is_dir():
            raise PreflightError(f"{path}: is a folder; name a file")
        _check_folder(path.absolute().parent)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turns errors of the operating system while a file is written into one line.

    Raises:
        OutOfSpace: the disk is full.
        PreflightError: instead of any other OSError.
    """
    try:
        with out_of_space(path):
            yield
    except OSError as error:
        raise PreflightError(f"{path}: cannot be written ({error.strerror or error}); name another place") from None


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Writes a .npy file, which appears whole or not at all.

    Raises:
        OutOfSpace, PreflightError: see `writable`.
    """
    content = io.BytesIO()
    np.save(content, array)
    with writable(path):
        replace_durable(path, content.getvalue())


def _check_folder(folder: Path) -> None:
    try:
        make_dir(folder)
    except OSError as error:
        raise PreflightError(f"{folder}: cannot be made ({error.strerror}); name another folder") from None
    if not folder.is_dir():
        raise PreflightError(f"{folder}: is no folder; name another one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PreflightError(f"{folder}: no permission to write; name another folder")


def _is_same(path: Path, given: Path) -> bool:
    try:
        return path.samefile(given)
    except OSError:  # one of them does not exist
        return False
