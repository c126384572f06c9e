"""Pool: a training set that is made once and kept in memory."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.edtalk.data.swap_pairs import SwapPairs


class Pool(Dataset[dict[str, Tensor]]):
    """The first items of a set, epoch after epoch; images are kept with 8 bits per value, as they are stored.

    Args:
        items: of any number, also fewer than a batch.
        num_items: how many are made.
    """

    def __init__(self, items: SwapPairs, num_items: int) -> None:
        self._kept = []
        for epoch in range(-(-num_items // len(items))):
            items.set_epoch(epoch)
            for index in range(min(len(items), num_items - len(self._kept))):
                self._kept.append({name: _packed(value) for name, value in items[index].items()})

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value / 127.5 - 1 for name, value in self._kept[index].items()}

    def set_epoch(self, epoch: int) -> None:
        """Nothing changes but the order, which is the sampler's."""


def _packed(values: Tensor) -> Tensor:
    """Of -1..1."""
    return ((values + 1) * 127.5).round().to(torch.uint8)
