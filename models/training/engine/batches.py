"""Batches: loaders over a learner's data sets, and batches on their way to a device."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.training.engine.learner import Batch
from models.training.runs.signals import leave_to_parent


def batch_loader(
    dataset: Dataset[Any], indices: Iterable[Sequence[int]], collate: Callable[[Sequence[Any]], Batch],
    num_workers: int, device: torch.device,
) -> DataLoader[Any]:  # fmt: skip
    """A loader of the batches whose item numbers `indices` yields, each time it is iterated."""
    return DataLoader(
        dataset,
        batch_sampler=indices,  # pyright: ignore[reportArgumentType]  # any iterable of lists will do
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=leave_to_parent,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on the device; mappings and lists are searched, other things kept."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [to_device(value, device) for value in batch]
    return batch
