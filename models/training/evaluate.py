"""Validation metrics and sample images of a training: averaged modules, eval mode, no gradients, float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.training.engine.batches import batch_loader, to_device
from models.training.engine.learner import Modules
from models.training.engine.sampler import ElasticSampler, derived_seed

if TYPE_CHECKING:
    from models.training.engine.engine import Engine

_NUM_SAMPLE_ITEMS = 4


def validate(engine: "Engine") -> dict[str, float]:
    """Means over the items of val_set; {} without one. With `val_batches` over the same random ones of them each time,
    whatever the number of ranks.
    """
    learner, seed = engine.learner, engine.config.seed
    if learner.val_set is None:
        return {}
    batches, sums = _batches(engine), dict[str, float]()
    loader = batch_loader(learner.val_set, batches, learner.collate, engine.config.num_workers, engine.device)
    with _evaluated(engine) as modules:
        for number, (indices, batch) in enumerate(zip(batches, loader, strict=True)):
            torch.manual_seed(derived_seed(seed, number))
            for name, value in learner.validate(to_device(batch, engine.device), modules).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(indices)
    return {name: total / num_validated(engine) for name, total in sums.items()}


def num_validated(engine: "Engine") -> int:
    """Items that `validate` takes the mean over."""
    return sum(len(indices) for indices in _batches(engine))


def sample_image(engine: "Engine") -> Tensor | None:
    """[3, H, W] 0..1: the learner's sample image of the first items of val_set, or of train_set."""
    learner = engine.learner
    dataset = learner.train_set if learner.val_set is None else learner.val_set
    num_items = min(len(dataset), _NUM_SAMPLE_ITEMS)  # pyright: ignore[reportArgumentType]
    batch = learner.collate([dataset[index] for index in range(num_items)])
    with _evaluated(engine) as modules:
        torch.manual_seed(engine.config.seed)
        return learner.sample_image(to_device(batch, engine.device), modules)


def _batches(engine: "Engine") -> list[list[int]]:
    """Item numbers of the batches to validate; each has as many as one rank trains with, and so fits its memory."""
    config, num_ranks = engine.config, engine.ranks.num
    if engine.learner.val_set is None:
        return []
    num_items = len(engine.learner.val_set)  # pyright: ignore[reportArgumentType]
    share = min(config.batch_size // num_ranks, num_items)
    batches = list(ElasticSampler(num_items, share, seed=config.seed, is_rest_dropped=False))
    return batches if config.val_batches is None else batches[: config.val_batches * num_ranks]


@contextmanager
def _evaluated(engine: "Engine") -> Iterator[Modules]:
    """The modules, averaged copies in the place of originals, in eval mode; afterwards each is in its mode again."""
    modules = {**engine.learner.modules, **engine.averages}
    modes = [(part, part.training) for module in modules.values() for part in module.modules()]
    for module in modules.values():
        module.eval()
    try:
        with torch.no_grad():
            yield modules
    finally:
        for part, mode in modes:
            part.training = mode
