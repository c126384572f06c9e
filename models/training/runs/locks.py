"""Locks of a training: exclusive use of a run's folder and of a GPU by one process at a time.

Each is an flock, which the kernel frees however its holder dies.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from models.training.runs.checkpoint import sweep
from storage.errors import LockedError, PreflightError
from storage.files import make_dir

RUN_LOCK = "run.lock"


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


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds a run's folder, which is made, inside the block; what a killed session left half-written is removed first.

    Raises:
        LockedError: another process trains this run.
        PreflightError: the lock file cannot be written.
    """
    make_dir(folder)
    refusal = f"run {folder.name} is being trained by another process; wait for it or stop it"
    with exclusive(folder / RUN_LOCK, refusal):
        sweep(folder)
        yield


@contextmanager
def gpu_lock(device: torch.device) -> Iterator[None]:
    """Holds the device inside the block; a CPU is free to all.

    The lock file lies in the system's temporary folder and is named by the GPU's UUID, not by its number, which
    CUDA_VISIBLE_DEVICES changes.

    Raises:
        LockedError: another training of this machine uses the GPU.
    """
    if device.type != "cuda":
        yield
        return
    uuid = gpu_uuid(device)
    refusal = f"GPU {device} ({uuid}) is used by another training; wait for it or choose another device"
    with exclusive(Path(tempfile.gettempdir()) / f"talkset-gpu-{uuid}.lock", refusal):
        yield


def gpu_uuid(device: torch.device) -> str:
    """The GPU's own name, the same in every process."""
    return str(torch.cuda.get_device_properties(device).uuid)
