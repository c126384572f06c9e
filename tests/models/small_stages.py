"""Every stage of every system that is found, made small: two items a step; all else is the 'smoke' preset.

A system whose smoke preset is still too large for this offers `SMALL` in tests/models/<system>/small.py: values of
settings, which are used where a stage has a setting of that name; and `RANKS`, stage -> settings that only matter for
training in several processes.
"""

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.systems import systems
from models.training import stages
from models.training.engine.config import StageConfig
from models.training.engine.distributed import Ranks
from models.training.engine.engine import Engine
from storage.snapshot import Snapshot


def cases() -> list[tuple[str, str]]:
    """Every system with each of its stages."""
    return [(system, stage) for system in systems() for stage in stages.discover(system)]


def own_settings(system: str, name: str) -> Mapping[str, Any]:
    """A constant of the system's small.py, empty where there is none."""
    if not Path(__file__).with_name(system).joinpath("small.py").is_file():
        return {}
    return getattr(importlib.import_module(f"tests.models.{system}.small"), name, {})


class Recorder(Engine):
    """Keeps the loss of the last step, without the discriminator's."""

    objective = 0.0

    def update(self, optimizer: str, loss: Tensor) -> None:
        if optimizer != "dis":
            self.objective = float(loss.detach())
        super().update(optimizer, loss)


def small_config(system: str, name: str, **settings: Any) -> StageConfig:
    """'smoke' with two items a step, one batch of validation and the system's small settings."""
    smoke = stages.preset(system, name, "smoke")
    train = smoke.train.model_copy(update={"batch_size": 2, "val_batches": 1, "max_steps": 3})
    own = {key: value for key, value in own_settings(system, "SMALL").items() if key in type(smoke).model_fields}
    return smoke.model_copy(update={"train": train} | own | settings)


def make_engine(system: str, name: str, snapshot: Snapshot, ranks: Ranks | None = None, **settings: Any) -> Recorder:
    """An engine at its first step; the parents have done one, each process its own."""
    stage, config = stages.find(system, name), small_config(system, name, **settings)
    parents = {parent: parent_state(system, parent, snapshot) for parent in stage.PARENTS}
    torch.manual_seed(config.train.seed)
    return Recorder(stage.build(config, snapshot, parents), config.train, ranks)


@cache
def parent_state(system: str, name: str, snapshot: Snapshot) -> Mapping[str, Tensor]:
    """What a stage leaves after one step."""
    engine = make_engine(system, name, snapshot)
    engine.advance(next(engine.batches()))
    return {key: value.clone() for key, value in engine.exported().items()}


def learned(engine: Engine, num_steps: int) -> set[str]:
    """Names of the tensors of all modules that are not bit-equal after so many steps."""
    before = {key: value.clone() for key, value in _tensors(engine).items()}
    for _, batch in zip(range(num_steps), engine.batches(), strict=False):
        engine.advance(batch)
    return {key for key, value in _tensors(engine).items() if not torch.equal(value, before[key])}


def _tensors(engine: Engine) -> dict[str, Tensor]:
    modules = engine.learner.modules.items()
    return {f"{name}.{key}": value for name, module in modules for key, value in module.named_parameters()}
