"""What the tests of the image stages share: tiny networks, a store, parents that were drawn at random, a fixed batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.edtalk.networks.shape import Shape
from models.edtalk.training.image_losses import ImageLossConfig
from models.training.engine.engine import Engine
from storage.snapshot import Snapshot
from tests import synthetic_store
from tests.synthetic_store import Take, build_store

SHAPE = Shape(size_px=32, width=1 / 32, latent_dim=48)
LOSSES = ImageLossConfig(perceptual="random", perceptual_width=1 / 16)


def under(name: str, module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module as a 'model' file has them."""
    return {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}


def store_without_faces(path: Path, subject: str) -> Snapshot:
    """Three subjects with a clip each, S001 in 'val'; no frame of one of them shows a face."""
    takes_of = synthetic_store.regular_takes

    def hidden(*counts: Any) -> list[Take]:
        takes = takes_of(*counts)
        return [replace(take, missing=1.0) if take.source.subject == subject else take for take in takes]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_store, "regular_takes", hidden)
        return build_store(path, 3, 1, (12,), thresholds={})


def some_items(learner: Any, count: int) -> dict[str, Tensor]:
    return learner.collate([learner.train_set[index % len(learner.train_set)] for index in range(count)])


def changed(learner: Any, train: Any, num_steps: int, module: str = "gen") -> set[str]:
    """Names of the module's tensors that are not bit-equal after so many steps."""
    before = {key: value.clone() for key, value in learner.modules[module].state_dict().items()}
    engine = Engine(learner, train)
    for _, batch in zip(range(num_steps), engine.batches(), strict=False):
        engine.advance(batch)
    return {key for key, value in learner.modules[module].state_dict().items() if not torch.equal(value, before[key])}


def resumes_exactly(build: Callable[[], Any], train: Any, num_before: int) -> bool:
    """Whether a training that is taken up from its state after some steps ends with the weights of an unbroken one."""
    engines = [Engine(build(), train) for _ in range(3)]
    unbroken, first, second = engines
    for batch in unbroken.batches():
        unbroken.advance(batch)
    for _, batch in zip(range(num_before), first.batches(), strict=False):
        first.advance(batch)
    second.restore(*first.state())
    for batch in second.batches():
        second.advance(batch)
    expected, found = unbroken.state()[0], second.state()[0]
    assert expected.keys() == found.keys()
    return all(torch.equal(value, found[key]) for key, value in expected.items())
