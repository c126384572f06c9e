"""Preflight: what would make a run fail in an hour makes it fail now, with one line."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from models.systems import require_system
from storage.catalog import Dataset
from storage.errors import PreflightError
from storage.files import make_dir
from storage.snapshot import bind_store
from storage.store_layout import store_file
from storage.weights import resolve
from tasks.faces.backend import backend_facts
from tasks.inventory import require_root
from tasks.shard_work import resolve_features

MIN_FREE_BYTES = 1 << 30


def preflight(dataset: Dataset, store: Path) -> None:
    """Checks the root, the store's folder, the free disk space and the systems to train; takes a moment.

    Raises:
        PreflightError: with what is wrong and what to do.
        ConfigError: the store holds another dataset, or `training.systems` names one that does not exist.
    """
    require_root(dataset)
    for system in dataset.training.systems:
        require_system(system, f"{dataset.name}.training.systems")
    try:
        make_dir(store)
    except OSError as error:
        raise PreflightError(f"{store}: cannot be made ({error.strerror}); pass another --store") from None
    if not os.access(store, os.W_OK | os.X_OK):
        raise PreflightError(f"{store}: no permission to write; pass another --store")
    free = shutil.disk_usage(store).free
    if free < MIN_FREE_BYTES:
        raise PreflightError(
            f"{store}: {free / 2**30:.2f} GiB are free, at least {MIN_FREE_BYTES / 2**30:.0f} GiB are needed; make room"
        )
    if store_file(store).exists():
        bind_store(store, dataset.name)


def preflight_work(dataset: Dataset) -> tuple[Mapping[str, BaseModel], Mapping[str, str]]:
    """Checks what only a run with work to do needs: the extractors' and the tracker's parameters, the weights.

    Returns:
        The extractors' parameters and why others are skipped, see tasks.shard_work.resolve_features.

    Raises:
        ConfigError: an unknown extractor, parameter, threshold or face backend.
        WeightsError: a weight file is missing or wrong.
    """
    found = resolve_features(dataset)
    for name in backend_facts(dataset.face.backend).weight_files:
        resolve(name)
    return found
