"""Stage 0: encoder and generator that redraw a person in the pose of another of their frames (LIA, 20 directions).

EDTalk starts from LIA (Wang et al., ICLR 2022) trained further on MEAD and HDTF; here it is trained from scratch.

Between two frames of a person the latent vector changes far more than by another mouth alone (with little data, twelve
times as much), and stage 1 can only separate what it encodes. An option that is not in the publications: faces are also
redrawn from themselves with the mouth of another one, where only the mouth differs.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate

from models.data.clip_dataset import validation_set
from models.edtalk.data.frame_pairs import FramePairs
from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.shape import SMALL
from models.edtalk.training.image_losses import (
    SMALL_LOSSES,
    ImageLosses,
    discriminator_adam,
    generator_adam,
    side_by_side,
)
from models.edtalk.training.swap_losses import SwapStageConfig, mouth_l1
from models.nn.losses import psnr_db
from models.training.engine.config import TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from storage.snapshot import Snapshot

VERSION = 4
PARENTS: tuple[str, ...] = ()
PUBLISHED = "LIA"
FEATURES: tuple[str, ...] = ("landmarks",)


class Config(SwapStageConfig):
    """Settings of the stage, beside those of SwapStageConfig.

    With a `mouth_weight` above 0 the stage is trained on pairs of faces as stage 1 is: an item of a batch is two
    people, each in another pose and, from `first_mouth_step` on, also with the mouth of the other. Without it the
    settings of pairs have no effect.

    Attributes:
        first_mouth_step: first step with other mouths; poses are learned faster without them.
    """

    first_mouth_step: NonNegativeInt = 0


SMOKE = TrainConfig(
    max_steps=40, batch_size=2, log_every=5, val_every=20, val_batches=4, image_every=20, save_every=20
)  # fmt: skip

PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(train=SMOKE, shape=SMALL, losses=SMALL_LOSSES),
        # 100 epochs of the released lists (34,100 clips), 12 images a step
        "paper": Config(train=TrainConfig(max_steps=284_000, batch_size=12, num_workers=4, val_batches=20)),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "ReconstructionLearner":
    """The learner on the clips of the splits 'train' and 'val' that show a face.

    Raises:
        ConfigError: there is no such clip to train on.
        WeightsError: VGG-19 is asked for and its file is missing.
    """
    size_px, seed = config.shape.size_px, config.train.seed
    train_set = config.pairs(snapshot, "train") if config.mouth_weight else FramePairs(snapshot, "train", size_px, seed)
    val_set = validation_set(lambda: FramePairs(snapshot, "val", size_px, seed))
    return ReconstructionLearner(config, train_set, val_set)


class ReconstructionLearner:
    """Trains 'gen' (a Lia) against 'dis' (a Discriminator); see learner.Learner for the attributes."""

    def __init__(self, config: Config, train_set: FramePairs | SwapPairs, val_set: FramePairs | None) -> None:
        generator, discriminator = Lia(config.shape), Discriminator(config.shape)
        self.modules = {"gen": generator, "dis": discriminator}
        self.optimizers = {
            "gen": generator_adam(generator.parameters(), config.losses),
            "dis": discriminator_adam(discriminator.parameters(), config.losses),
        }
        self.averaged, self.exported = ("gen",), ("gen", "dis")
        self.train_set, self.val_set, self.collate = train_set, val_set, default_collate
        self._losses, self._config = ImageLosses(config.losses, discriminator), config

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """One step of the generator, one of the discriminator."""
        reference, target = _poses(batch)
        has_mouths = self._config.mouth_weight > 0 and trainer.step >= self._config.first_mouth_step
        if has_mouths:
            reference, target = torch.cat([reference, target]), torch.cat([target, batch["swapped"].flatten(0, 1)])
        with trainer.autocast():
            output = trainer.module("gen")(reference, target)
            loss, parts = self._losses.generator(output, target)
            if has_mouths:
                parts["mouth_l1"] = mouth_l1(output, target, batch["mouth"].flatten(0, 1).repeat(2, 1, 1, 1))
                loss = loss + self._config.mouth_weight * parts["mouth_l1"]
        trainer.update("gen", loss)
        parts = {name: value.detach() for name, value in parts.items()}
        # faces with swapped mouths are no examples of real images
        return parts | self._losses.train_discriminator(_poses(batch)[1], output, trainer)

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Mean absolute error (of -1..1) and PSNR of the redrawn targets.

        `l1_still` is the error of the unchanged reference, which a model has to beat.
        """
        reference, target = batch["reference"], batch["target"]
        output = modules["gen"](reference, target).clamp(-1, 1)
        return {
            "l1": functional.l1_loss(output, target),
            "l1_still": functional.l1_loss(reference, target),
            "psnr_db": psnr_db(output, target),
        }

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Columns: reference, target, output."""
        reference, target = batch["reference"], batch["target"]
        return side_by_side(reference, target, modules["gen"](reference, target))


def _poses(batch: Batch) -> tuple[Tensor, Tensor]:
    """References and targets [B, 3, S, S] of a batch of FramePairs, or of SwapPairs, whose faces come in pairs."""
    return batch["reference"].flatten(0, -4), batch["target"].flatten(0, -4)
