"""Preflight: what would make a run fail in an hour makes it fail now, with one line."""

import os
import shutil
from pathlib import Path

from storage.catalog import Dataset
from storage.errors import PreflightError
from storage.files import make_dir
from storage.lock import writer_lock
from storage.weights import resolve
from tasks.inventory import require_root

MIN_FREE_BYTES = 1 << 30

# Weights that a face backend cannot do without.
_BACKEND_WEIGHTS = {"dlib": ("dlib68",), "face_alignment": ("2dfan4", "s3fd"), "mediapipe": ("face_landmarker",)}


def preflight(dataset: Dataset, store: Path, wait_s: float = 0.0) -> None:
    """Checks root, store, disk, lock and weights; takes well under a second.

    Raises:
        PreflightError: with what is wrong and what to do.
        LockedError: another process writes to the store.
        WeightsError: a weight file is missing or wrong.
    """
    require_root(dataset)
    _check_writable(store)
    _check_space(store)
    if dataset.face.backend not in _BACKEND_WEIGHTS:
        known = ", ".join(_BACKEND_WEIGHTS)
        raise PreflightError(f"dataset {dataset.name!r}: face.backend {dataset.face.backend!r}; there are {known}")
    for name in _BACKEND_WEIGHTS[dataset.face.backend]:
        resolve(name)
    with writer_lock(store, wait_s):
        pass


def _check_writable(store: Path) -> None:
    try:
        make_dir(store)
    except OSError as error:
        raise PreflightError(f"{store}: cannot be made ({error.strerror}); pass another --store") from None
    if not os.access(store, os.W_OK | os.X_OK):
        raise PreflightError(f"{store}: no permission to write; pass another --store")


def _check_space(store: Path) -> None:
    free = shutil.disk_usage(store).free
    if free < MIN_FREE_BYTES:
        raise PreflightError(
            f"{store}: {free / 2**30:.2f} GiB are free, at least {MIN_FREE_BYTES / 2**30:.0f} GiB are needed; make room"
        )
