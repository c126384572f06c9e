"""Ranks: the processes of one training; one by default, several when torchrun starts them and sets the environment."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

# The first rank validates and saves while the others wait; one that dies is noticed at once, not by this.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the training; all but the attributes are calls that every rank makes together.

    Attributes:
        rank: 0 .. num - 1.
        num: processes.
        local: 0, 1, ... among those on this machine: which GPU it uses.
    """

    rank: int = 0
    num: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def wrap(self, module: nn.Module, device: torch.device) -> Callable[..., Any]:
        """The module to be called in training: its weights start as those of rank 0, its gradients are means."""
        if self.num == 1 or not any(weight.requires_grad for weight in module.parameters()):
            return module
        devices = [device] if device.type == "cuda" else None
        # Buffers are not made equal at each forward: two forwards before one backward, as critics need, would fail.
        return DistributedDataParallel(module, device_ids=devices, forward_sync_buffers=False)

    def wait(self) -> None:
        """Returns when every rank has called it."""
        if self.num > 1:
            distributed.barrier()

    def largest(self, values: Sequence[float]) -> list[float]:
        """For each value, the largest of all ranks."""
        return self._reduce(torch.tensor(values, dtype=torch.float64), distributed.ReduceOp.MAX).tolist()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks of a float64 tensor on the CPU."""
        return self._reduce(values, distributed.ReduceOp.SUM) / self.num

    def first(self, value: int) -> int:
        """The value of the first rank."""
        return int(self._reduce(torch.tensor([int(value) if self.is_first else 0]), distributed.ReduceOp.SUM))

    def _reduce(self, values: Tensor, operation: Any) -> Tensor:
        if self.num > 1:
            distributed.all_reduce(values, operation)
        return values


def is_first_process() -> bool:
    """Whether this process is the only one of its training or the first one; needs no connection to the others."""
    return os.environ.get("RANK", "0") == "0"


def joined_ranks() -> Ranks:
    """The processes of this training, connected: gloo for the CPU, NCCL for GPUs. They stay so until they end: a second
    group of the same processes could meet what the first has left in their store.
    """
    num = int(os.environ.get("WORLD_SIZE", "1"))
    if num == 1:
        return Ranks()
    rank = int(os.environ["RANK"])
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE, store=_store(), rank=rank, world_size=num)
    return Ranks(rank, num, int(os.environ["LOCAL_RANK"]))


def _store() -> PrefixStore:
    """Where the ranks leave their addresses for each other."""
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    # torchrun restarts its ranks with the store they had before, where they would find the addresses of dead ones. On
    # several machines the number of restarts is not the same for all: there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 helps.
    is_one_machine = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_one_machine else "0"
    return PrefixStore(f"restart-{restart}", store)
