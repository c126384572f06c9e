"""Stage 1: mouth and head pose driven apart from each other, learned by cross-reconstruction of pairs of faces.

EDTalk section 3.2. Two people each get the mouth of the other; either must come out as it was when its mouth is taken
from the one picture and its pose from the other. Faults of the released code are mended (see data.mouth_swap
and SwapPairs), and the likeness of codes is a mean over the batch like every other loss, not a sum.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate

from models.data.clip_dataset import validation_set
from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.shape import SMALL
from models.edtalk.training.cross_reconstruction import Crossed, CrossReconstruction
from models.edtalk.training.image_losses import SMALL_LOSSES, ImageLosses, discriminator_adam, generator_adam
from models.edtalk.training.pictures import side_by_side
from models.edtalk.training.swap_losses import SwapStageConfig, mouth_l1
from models.edtalk.weights.parent_state import discriminator_of, part_of
from models.edtalk.weights.published_checkpoints import NOT_IN_LIA, fit_state, lia_to_edtalk
from models.nn.losses import psnr_db
from models.training.engine.config import TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from storage.snapshot import Snapshot

VERSION = 2
PARENT = "reconstruction"
PARENTS: tuple[str, ...] = (PARENT,)
PUBLISHED = "EDTalk_lip_pose"
FEATURES: tuple[str, ...] = ("landmarks",)

# What stays as it is.
_FROZEN = {"all": (), "generator": ("enc",), "navigation": ("enc", "fc", "dec")}


class Config(SwapStageConfig):
    """Settings of the stage, beside those of SwapStageConfig. Mouths are a few pixels of the picture: without a
    `mouth_weight` they are what is learned last.

    Attributes:
        trained: 'generator' leaves only the encoder as it is; 'navigation' trains the heads and the bank of mouth and
            pose alone, as the paper says; 'all' trains the encoder too, as the released code does.
        feature_weight: of the likeness of codes.
        has_rgb_residual: see models.edtalk.networks.generator.RgbResidual; the stages behind follow.
    """

    trained: Literal["generator", "navigation", "all"] = "generator"
    feature_weight: NonNegativeFloat = 1.0
    has_rgb_residual: bool = False


SMOKE = TrainConfig(
    max_steps=6, batch_size=2, log_every=2, val_every=6, val_batches=2, image_every=6, save_every=6
)  # fmt: skip

PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(train=SMOKE, shape=SMALL, losses=SMALL_LOSSES),
        # the released script's 100 epochs of the 8,353 clips of HDTF; the paper speaks of 4,000 steps
        "paper": Config(train=TrainConfig(max_steps=209_000, batch_size=4, num_workers=4, val_batches=20)),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "MouthPoseLearner":
    """The learner on the clips of the splits 'train' and 'val' that show a face in two frames.

    Raises:
        ConfigError: there is no such clip to train on.
        WeightsError: VGG-19 is asked for and its file is missing, or the parent has another shape.
    """
    train_set = config.pairs(snapshot, "train")
    val_set = validation_set(lambda: config.pairs(snapshot, "val"))
    return MouthPoseLearner(config, train_set, val_set, parents[PARENT])


class MouthPoseLearner:
    """Trains 'gen' (an EDTalk without expression) against 'dis'; see learner.Learner for the attributes."""

    def __init__(
        self, config: Config, train_set: SwapPairs, val_set: SwapPairs | None, parent: Mapping[str, Tensor]
    ) -> None:
        generator = CrossReconstruction(config.shape, has_expression=False, has_rgb_residual=config.has_rgb_residual)
        fit_state(generator, lia_to_edtalk(part_of(parent, "gen")), PARENT, NOT_IN_LIA)
        for name in _FROZEN[config.trained]:
            generator.get_submodule(name).requires_grad_(False)
        discriminator = discriminator_of(parent, config.shape, PARENT)
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
        config, target, mouth = self._config, batch["target"].flatten(0, 1), batch["mouth"].flatten(0, 1)
        with trainer.autocast():
            drawn = cast(Crossed, trainer.module("gen")(batch["source"], batch["target"], batch["swapped"]))
            output, truth = torch.cat([drawn.own, drawn.crossed]), target.repeat(2, 1, 1, 1)
            loss, parts = self._losses.generator(output, truth)
            extra = {name: torch.exp(-cosine).mean() for name, cosine in _cosines(drawn).items()}
            # half: the published sum has the losses of four images and two pairs of codes, here means stand for both
            likeness = config.feature_weight * (extra["mouth"] + extra["pose"]) / 2
            extra["mouth_l1"] = mouth_l1(output, truth, mouth.repeat(2, 1, 1, 1))
            likeness = likeness + config.mouth_weight * extra["mouth_l1"]
        trainer.update("gen", loss + likeness)
        parts |= {name: value.detach() for name, value in extra.items()}
        return parts | self._losses.train_discriminator(target, drawn.crossed, trainer)

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Mean absolute error (of -1..1), of all and of the mouths, and PSNR, driven by the own target (`self`) and by
        the swapped ones (`cross`).

        `l1_still` is the error of the source left as it is, which a model has to beat. `mouth_cos` and `pose_cos` say
        how alike the codes of both ways are; 1 is the goal.
        """
        drawn, target = _drawn(modules, batch), batch["target"].flatten(0, 1)
        figures = {"l1_still": functional.l1_loss(batch["source"].flatten(0, 1), target)}
        for name, output in (("self", drawn.own), ("cross", drawn.crossed)):
            figures[f"l1_{name}"] = functional.l1_loss(output.clamp(-1, 1), target)
            figures[f"l1_mouth_{name}"] = _mouth_l1(output.clamp(-1, 1), batch)
            figures[f"psnr_{name}_db"] = psnr_db(output, target)
        return figures | {f"{name}_cos": cosine.mean() for name, cosine in _cosines(drawn).items()}

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Columns: source, target, the target with the other's mouth, driven by itself, cross-driven."""
        given = [batch[name].flatten(0, 1) for name in ("source", "target", "swapped")]
        drawn = _drawn(modules, batch)
        return side_by_side(*given, drawn.own, drawn.crossed)


def _drawn(modules: Modules, batch: Batch) -> Crossed:
    return modules["gen"](batch["source"], batch["target"], batch["swapped"])


def _mouth_l1(images: Tensor, batch: Batch) -> Tensor:
    """Of images [2 P, 3, S, S]."""
    return mouth_l1(images, batch["target"].flatten(0, 1), batch["mouth"].flatten(0, 1))


def _cosines(drawn: Crossed) -> dict[str, Tensor]:
    """[2 P] cosine of each face's own and crossed codes; that of the motion vectors is the same, as the directions are
    orthonormal.
    """
    pairs = {name: (getattr(drawn.own_codes, name), getattr(drawn.crossed_codes, name)) for name in ("mouth", "pose")}
    return {name: functional.cosine_similarity(one.float(), other.float()) for name, (one, other) in pairs.items()}
