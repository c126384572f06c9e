"""Person fine-tune: the model's generator fitted to one subject; the weights that are best on held-out frames are kept.

The first frames of each of the subject's videos are training data, the last ones held out. The held-out loss is
measured before the first step and every `check_every` steps; the model file holds the weights with the lowest, so it is
never worse there than its parent. When the loss has not fallen for `patience` checks, training ends. Meant for one
process: every process measures the whole held-out loss.
"""

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate

from models.edtalk.data.subject_frames import SubjectFrames
from models.edtalk.networks.shape import SMALL
from models.edtalk.training.image_losses import (
    SMALL_LOSSES,
    ImageLosses,
    ImageStageConfig,
    discriminator_adam,
    generator_adam,
    side_by_side,
)
from models.edtalk.weights.parent_state import discriminator_of, edtalk_of
from models.nn.losses import psnr_db
from models.training.engine.batches import to_device
from models.training.engine.config import TrainConfig
from models.training.engine.errors import NonFinite
from models.training.engine.learner import Batch, EarlyStop, Modules, Scalars, Trainer
from storage.snapshot import Snapshot

VERSION = 2
PARENT = "expression"
PARENTS: tuple[str, ...] = (PARENT,)
FEATURES: tuple[str, ...] = ("landmarks",)


class Config(ImageStageConfig):
    """Settings of the stage, beside those of ImageStageConfig.

    Attributes:
        subject: label of the person; '' is the one with the most frames.
        trained: 'decoder', the generator only, or 'all'.
        train_share: share of each video's frames that is trained on; the rest is held out.
        check_every: steps between measurements of the held-out loss.
        num_checked: number of held-out frames that it is measured on, evenly spread.
        patience: number of measurements without a new lowest loss after which training stops.
    """

    subject: str = ""
    trained: Literal["decoder", "all"] = "decoder"
    train_share: float = Field(default=0.8, gt=0, lt=1)
    check_every: PositiveInt = 50
    num_checked: PositiveInt = 64
    patience: PositiveInt = 10


SMOKE = TrainConfig(
    max_steps=12, batch_size=2, log_every=3, val_every=12, val_batches=2, image_every=12, save_every=12
)  # fmt: skip

PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(train=SMOKE, shape=SMALL, losses=SMALL_LOSSES, check_every=6, num_checked=4),
        # the samples published with the released script are of a few hundred steps
        "paper": Config(train=TrainConfig(max_steps=5000, batch_size=32, num_workers=4, val_every=250, image_every=50)),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "FinetuneLearner":
    """The learner on the clips of one subject.

    Raises:
        ConfigError: there is no such subject, or too few frames show their face.
        WeightsError: VGG-19 is asked for and its file is missing, or the parent has another shape.
    """
    settings = (config.train_share, config.shape.size_px, config.train.seed)
    train_set = SubjectFrames(snapshot, config.subject, "train", *settings)
    held_out = SubjectFrames(snapshot, train_set.subject, "held_out", *settings)
    return FinetuneLearner(config, train_set, held_out, parents[PARENT])


class FinetuneLearner:
    """Trains 'trained' (an EDTalk) against 'dis'; 'gen' is the best it was. See learner.Learner."""

    def __init__(
        self, config: Config, train_set: SubjectFrames, held_out: SubjectFrames, parent: Mapping[str, Tensor]
    ) -> None:
        self._config = config
        self._trained = edtalk_of(parent, config.shape, PARENT)
        self._best, self._stop = copy.deepcopy(self._trained).requires_grad_(False), EarlyStop(config.patience)
        if config.trained == "decoder":
            for name, weight in self._trained.named_parameters():
                weight.requires_grad_(weight.requires_grad and name.startswith("dec."))
        discriminator = discriminator_of(parent, config.shape, PARENT)
        self.modules = {"trained": self._trained, "gen": self._best, "dis": discriminator, "stop": self._stop}
        self.optimizers = {
            "trained": generator_adam(self._trained.parameters(), config.losses),
            "dis": discriminator_adam(discriminator.parameters(), config.losses),
        }
        # an average of weights that a few hundred steps change would lag behind them
        self.averaged, self.exported = (), ("gen",)
        self.train_set, self.val_set, self.collate = train_set, held_out, default_collate
        self._losses = ImageLosses(config.losses, discriminator)

    @property
    def is_finished(self) -> bool:
        """Whether the held-out loss has stopped falling."""
        return self._stop.is_over

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """One step of the model, one of the discriminator."""
        if not self._stop.has_begun:
            self._check(trainer)
        target = batch["target"]
        with trainer.autocast():
            output, _ = trainer.module("trained")(batch["reference"], target)
            loss, parts = self._losses.generator(output, target)
        trainer.update("trained", loss)
        parts |= self._losses.train_discriminator(target, output, trainer)
        if (trainer.step + 1) % self._config.check_every == 0:
            self._check(trainer)
        return parts | {"held_out_best": self._stop.best}

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Mean absolute error (of -1..1) and PSNR of held-out frames, redrawn by the best weights so far.

        `l1_still` is the error of the unchanged reference.
        """
        reference, target = batch["reference"], batch["target"]
        output = modules["gen"](reference, target)[0].clamp(-1, 1)
        return {
            "l1": functional.l1_loss(output, target),
            "l1_still": functional.l1_loss(reference, target),
            "psnr_db": psnr_db(output, target),
        }

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Columns: reference, target, drawn by the best weights, by the newest."""
        reference, target = batch["reference"], batch["target"]
        drawn = (modules[name](reference, target)[0] for name in ("gen", "trained"))
        return side_by_side(reference, target, *drawn)

    def _check(self, trainer: Trainer) -> None:
        """Measures the held-out loss and keeps the weights when it is the lowest."""
        loss = self._held_out_loss(trainer)
        if not math.isfinite(loss):
            raise NonFinite(f"step {trainer.step}: the loss of held-out frames is {loss}")
        if self._stop.note(loss):
            self._best.load_state_dict(self._trained.state_dict())

    @torch.no_grad()
    def _held_out_loss(self, trainer: Trainer) -> float:
        """Mean loss of the newest weights over the checked frames, without its adversarial part."""
        total, config, size = 0.0, self._config.losses, self._config.train.batch_size
        checked = np.linspace(0, len(self.val_set) - 1, min(self._config.num_checked, len(self.val_set))).round()
        for first in range(0, len(checked), size):
            items = [self.val_set[int(index)] for index in checked[first : first + size]]
            batch = to_device(self.collate(items), trainer.device)
            output, _ = self._trained(batch["reference"], batch["target"])
            parts = self._losses.generator(output, batch["target"])[1]
            loss = config.perceptual_weight * parts["perceptual"] + config.l1_weight * parts["l1"]
            total += float(loss) * len(items)
        return total / len(checked)
