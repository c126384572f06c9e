"""One training per GPU: a lock in the system's temporary folder, named by the GPU and not by its number, which the
environment can change. It outlives no process: a killed holder frees it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from models.training.runs.exclusive import exclusive


@contextmanager
def gpu_lock(device: torch.device) -> Iterator[None]:
    """Holds the device inside the block; a CPU is free to all.

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
