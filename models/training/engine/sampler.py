"""ElasticSampler: batches that do not depend on the number of processes, and resume with any other number exactly."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from models.training.engine.distributed import Ranks

_STATE_KEYS = ("seed", "epoch", "position", "num_items", "is_shuffled")


def derived_seed(*numbers: int) -> int:
    """A seed of 63 bits; different numbers give unrelated seeds.

    A random choice seeded by its place (seed, step, rank) depends on where a training is, not on its history.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class ElasticSampler(Sampler[list[int]]):
    """Batch sampler of one rank: the order of an epoch is a permutation by (seed, epoch), the place in it is counted in
    items of all ranks together, and every rank takes its slice of each global batch.

    Iterating goes from the current place to the end of the epoch and does not move the place: loaders read ahead of
    what was trained on. The training loop calls `advance` after each step, which also moves on to the next epoch.

        loader = DataLoader(dataset, batch_sampler=sampler)
        while steps are left:
            dataset.set_epoch(sampler.epoch)
            for batch in loader:
                train(batch)
                sampler.advance()       # from here on sampler.state_dict() is what a checkpoint needs

    Args:
        num_items: length of the data set.
        batch_size: items per step of all ranks together.
        ranks: this process among those of the training.
        seed: of the order.
        is_shuffled: False keeps the order of the data set.
        is_rest_dropped: False adds a last, smaller batch, for evaluation on one rank.

    Raises:
        ValueError: the batch cannot be divided evenly among the ranks, or there is not one full batch.
    """

    def __init__(
        self, num_items: int, batch_size: int, ranks: Ranks | None = None, seed: int = 0, is_shuffled: bool = True,
        is_rest_dropped: bool = True,
    ) -> None:  # fmt: skip
        ranks = ranks or Ranks()
        if batch_size < 1 or batch_size % ranks.num or not 0 <= ranks.rank < ranks.num:
            raise ValueError(f"a batch of {batch_size} cannot be divided evenly: rank {ranks.rank} of {ranks.num}")
        if not is_rest_dropped and ranks.num > 1:
            raise ValueError("a last, smaller batch is possible on one rank only")
        if num_items < (batch_size if is_rest_dropped else 1):
            raise ValueError(f"{num_items} items do not fill one batch of {batch_size}; lower the batch size")
        self.num_items, self.batch_size, self.ranks = num_items, batch_size, ranks
        self.seed, self.is_shuffled, self.is_rest_dropped = seed, is_shuffled, is_rest_dropped
        self.epoch = self.position = 0

    def __iter__(self) -> Iterator[list[int]]:
        order, share = self._order()[: self._end], self.batch_size // self.ranks.num
        first = self.ranks.rank * share
        for start in range(self.position, len(order), self.batch_size):
            yield order[start : start + self.batch_size][first : first + share]

    def __len__(self) -> int:
        """Batches left in this epoch."""
        return -(-(self._end - self.position) // self.batch_size)

    def advance(self, num_steps: int = 1) -> None:
        """Notes that global batches were used; at the end of an epoch the next one begins."""
        for _ in range(num_steps):
            self.position += self.batch_size
            if self.position >= self._end:
                self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The place in the data: plain numbers, the same on every rank."""
        return {key: getattr(self, key) for key in _STATE_KEYS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues at a saved place; number of ranks and batch size may differ from those that saved it.

        Raises:
            ValueError: the data set has another length or the order another rule: the place would mean something else.
        """
        for key in ("num_items", "is_shuffled"):
            if state[key] != getattr(self, key):
                raise ValueError(f"saved with {key} {state[key]}, now {getattr(self, key)}: start a new epoch instead")
        self.seed, self.epoch, self.position = int(state["seed"]), int(state["epoch"]), int(state["position"])
        if self.position >= self._end:
            self.epoch, self.position = self.epoch + 1, 0

    @property
    def _end(self) -> int:
        """Where the last batch of the epoch ends."""
        if not self.is_rest_dropped:
            return self.num_items
        # counted from the place, which after a change of the batch size need not be a multiple of it
        return self.position + (self.num_items - self.position) // self.batch_size * self.batch_size

    def _order(self) -> list[int]:
        if not self.is_shuffled:
            return list(range(self.num_items))
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        return torch.randperm(self.num_items, generator=generator).tolist()
