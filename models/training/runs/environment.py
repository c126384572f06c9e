"""Environment of a training session: its device, its hardware, its installed packages."""

import ctypes
import os
import platform
import sys
from functools import cache
from importlib import metadata
from typing import Any

import psutil
import torch

from models.training.engine.distributed import Ranks
from storage.errors import ConfigError
from storage.keys import canonical_json, sha256_hex

_GIB = 1 << 30
# Parameters of mallopt(3): from which size on memory comes from the system, and how much free memory is handed back.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGE_BYTES = 1 << 30
_chosen: torch.device | None = None


def choose_device(wanted: str, ranks: Ranks) -> torch.device:
    """The device of this rank; `chosen_device` returns it from now on.

    Args:
        wanted: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:1'; 'cuda' is the GPU numbered as the rank.
        ranks: this process.

    Raises:
        ConfigError: torch has no such device here.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    try:
        device = torch.device(f"cuda:{ranks.local}" if name == "cuda" else name)
        if device.type != "cuda":
            torch.ones(1, device=device).cpu()
    except RuntimeError as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ConfigError(f"device {wanted!r}: {reason}; use --device cpu") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {wanted!r}: torch sees {torch.cuda.device_count()} GPUs; use --device cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # fp32 is to mean that; torch's default is TF32, with 10 bits, in convolutions
        torch.backends.cudnn.allow_tf32 = False
    global _chosen
    _chosen = device
    return device


def chosen_device() -> torch.device:
    """The last device that `choose_device` returned; before that a GPU where there is one."""
    return _chosen or torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware(device: torch.device) -> dict[str, Any]:
    """Device, its name and memory, cores and memory of the machine, version of torch."""
    found: dict[str, Any] = {
        "device": device.type, "cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__,
        "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
    }  # fmt: skip
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / _GIB, 1)}
    return found


@cache
def packages_sha256() -> str:
    """SHA-256 of the sorted `name==version` of every installed distribution."""
    heads = [found.metadata for found in metadata.distributions()]
    return sha256_hex(canonical_json(sorted({f"{head['Name']}=={head['Version']}" for head in heads})))


def reuse_large_blocks() -> None:
    """Makes malloc keep freed blocks of up to a GiB instead of returning them to the system; no effect without glibc.

    By default every tensor above 32 MiB is fresh memory, whose pages the system clears one by one at each use: batches
    of 8 images of 256 px then cost more per image than single ones (0.62 against 0.47 s of a core), and less
    otherwise (0.39 against 0.43). The process keeps its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
