"""Learner: the interface of a stage's model, losses and data; Trainer: the interface of the engine for its steps.

A learner defines modules, losses and data; the engine handles devices, processes, precision, averaged weights,
checkpoints and logs. A step of a GAN, for example:

    def train_step(self, batch, trainer):
        with trainer.autocast():
            fake = trainer.module("generator")(batch["source"])
            adversarial = hinge_generator(trainer.module("critic")(fake))
        trainer.update("generator", adversarial)
        with trainer.autocast():
            critic = hinge_critic(trainer.module("critic")(batch["target"]), trainer.module("critic")(fake.detach()))
        trainer.update("critic", critic)
        return {"adversarial": adversarial.detach(), "critic": critic.detach()}
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

Batch = Mapping[str, Any]
Modules = Mapping[str, nn.Module]
Scalars = Mapping[str, Tensor]


class Trainer(Protocol):
    """The part of the engine that a learner's `train_step` uses.

    Attributes:
        device: where the batch lies and the modules are.
        step: optimiser steps done before this one.
        generator: on the CPU, seeded by (seed, step, rank). Every random choice of a step is drawn from it (or from
            torch's global generators, which are seeded alike), never from `random` or numpy: that makes resuming exact.
    """

    device: torch.device
    step: int
    generator: torch.Generator

    def autocast(self) -> AbstractContextManager[Any]:
        """Inside it torch computes in the configured precision. Leave it before losses that need float32."""
        ...

    def module(self, name: str) -> Callable[..., Any]:
        """A module of the learner to be called, and only called: with several processes it is a DistributedDataParallel
        wrapper, whose `forward` makes gradients agree among them. Methods of the raw module would bypass that.
        """
        ...

    def update(self, optimizer: str, loss: Tensor) -> None:
        """One optimiser step on a scalar loss: zero_grad, backward, unscale, clip, check, step.

        Raises:
            NonFinite: the loss, or without fp16 a gradient, is NaN or infinite; no weight has changed.
        """
        ...


class Learner(Protocol):
    """The return value of a stage's `build`: plain attributes, all on the CPU; the engine moves them.

    It may also have `is_finished: bool`, see `is_finished` below, to end training before max_steps.

    Attributes:
        modules: everything a checkpoint holds, frozen modules too; in the mode (train, eval) they are trained in.
        optimizers: by name; their state is in the checkpoint. A learning rate that changes is set in `train_step`, as a
            function of `trainer.step`. Which weights require a gradient is decided in `build`, once: with several
            processes only those are kept equal.
        averaged: modules with an averaged (EMA) copy, which validation, sample images and the 'model' file use.
        exported: modules of the 'model' file; a tensor is called `<module>.<key>` there.
        train_set: items by number. Where it has `set_epoch(epoch)`, that is called before each epoch, and workers that
            live on must see it (keep it in shared memory). Random choices depend on (seed, epoch, index) only.
        val_set: None for a stage without validation.
        collate: items -> batch.
    """

    modules: Modules
    optimizers: Mapping[str, Optimizer]
    averaged: tuple[str, ...]
    exported: tuple[str, ...]
    train_set: Dataset[Any]
    val_set: Dataset[Any] | None
    collate: Callable[[Sequence[Any]], Batch]

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """Trains on a batch [this process's share] through `trainer.update`; detached scalars for the log."""
        ...

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Scalars, each the mean over the items of the batch. Called without gradients, `modules` in eval mode."""
        ...

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor | None:
        """[3, H, W] float in 0..1: outputs for the first items of val_set (or of train_set); None for no image.

        Called as `validate`.
        """
        ...


def is_finished(learner: Learner) -> bool:
    """Whether the learner needs no further step: its `is_finished`, False where it has none.

    Evaluated after each step and after a resume. The value must depend on nothing but the contents of a checkpoint
    (buffers of a module), so that a resumed training ends where an uninterrupted one does. With several processes the
    value of the first one counts.
    """
    return bool(getattr(learner, "is_finished", False))


class EarlyStop(nn.Module):
    """Tracks a metric that should fall, as state in a checkpoint; `is_finished` can be based on it.

    Args:
        patience: number of checks without a new lowest value until it is over.

    Attributes:
        best: [] float64, lowest value so far.
        num_worse: [] int64, checks since then.
    """

    best: Tensor
    num_worse: Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("best", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("num_worse", torch.zeros((), dtype=torch.int64))

    @property
    def has_begun(self) -> bool:
        """Whether there was a check."""
        return bool(torch.isfinite(self.best))

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return int(self.num_worse) >= self.patience

    def note(self, figure: float) -> bool:
        """Adds the value of a check; True if it is the lowest so far."""
        is_best = figure < float(self.best)
        self.num_worse.fill_(0 if is_best else int(self.num_worse) + 1)
        if is_best:
            self.best.fill_(figure)
        return is_best
