"""Stage 1: mouth and head pose driven independently, learned by cross-reconstruction of pairs of faces.

EDTalk section 3.2. Two people each get the mouth of the other; either must come out unchanged when its mouth code is
taken from one image and its pose code from the other. Faults of the released code are corrected (see data.mouth_swap
and SwapPairs), and the similarity of codes is a mean over the batch like every other loss, not a sum.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate

from models.data.clip_dataset import validation_set
from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import SMALL
from models.edtalk.training.image_losses import (
    SMALL_LOSSES,
    ImageLosses,
    discriminator_adam,
    generator_adam,
    side_by_side,
)
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

# Parts that are not trained.
_FROZEN = {"all": (), "generator": ("enc",), "navigation": ("enc", "fc", "dec")}


class Config(SwapStageConfig):
    """Settings of the stage, beside those of SwapStageConfig.

    Mouths are a few pixels of an image: without a `mouth_weight` they are learned last.

    Attributes:
        trained: 'generator' trains everything but the encoder; 'navigation' the heads and the bank of mouth and pose
            alone, as in the paper; 'all' the encoder too, as the released code does.
        feature_weight: weight of the similarity of codes.
        has_rgb_residual: see models.edtalk.networks.generator.RgbResidual; the following stages take it over.
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


class Crossed(NamedTuple):
    """Images of P pairs of faces; row 2 p is face A of pair p, row 2 p + 1 its face B.

    Attributes:
        own: [2 P, 3, S, S] each face driven by its own target.
        crossed: [2 P, 3, S, S] each face driven by two images: its mouth code is that of the other face with its mouth,
            its pose code that of itself with the mouth of the other.
        own_codes, crossed_codes: the codes that drove them.
    """

    own: Tensor
    crossed: Tensor
    own_codes: Codes
    crossed_codes: Codes


class CrossReconstruction(EDTalk):
    """An EDTalk model with another `forward`; parameters and names are the same."""

    def forward(self, reference: Tensor, target: Tensor, swapped: Tensor) -> Crossed:  # pyright: ignore[reportIncompatibleMethodOverride]  # several processes train through `forward` only, and EDTalk's would encode each image twice
        """Draws the references as the targets, in both ways.

        Args:
            reference, target, swapped: [P, 2, 3, S, S] in -1..1, see models.edtalk.data.swap_pairs.SwapPairs.
        """
        identity, directions = self.encode_identity(reference.flatten(0, 1)), self.directions()
        latents = self.encode(torch.cat([target.flatten(0, 1), swapped.flatten(0, 1)]))
        own, other = (self.codes(half) for half in latents.chunk(2))
        # the mouth of A is seen in the image of B that has it: the two of each pair change places
        crossed = Codes(other.mouth.unflatten(0, (-1, 2)).flip(1).flatten(0, 1), other.pose)
        own_drawn, crossed_drawn = (self.render(identity, codes, directions) for codes in (own, crossed))
        return Crossed(own_drawn, crossed_drawn, own, crossed)


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
            drawn = _drawn(trainer.module("gen"), batch)
            output, truth = torch.cat([drawn.own, drawn.crossed]), target.repeat(2, 1, 1, 1)
            loss, parts = self._losses.generator(output, truth)
            extra = {name: torch.exp(-cosine).mean() for name, cosine in _cosines(drawn).items()}
            # half: the published sum has the losses of four images and two pairs of codes, here means stand for both
            extra_loss = config.feature_weight * (extra["mouth"] + extra["pose"]) / 2
            extra["mouth_l1"] = mouth_l1(output, truth, mouth.repeat(2, 1, 1, 1))
            extra_loss = extra_loss + config.mouth_weight * extra["mouth_l1"]
        trainer.update("gen", loss + extra_loss)
        parts |= {name: value.detach() for name, value in extra.items()}
        return parts | self._losses.train_discriminator(target, drawn.crossed, trainer)

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Mean absolute error (of -1..1) of images and of mouths, and PSNR, by the own target (`self`) and crossed.

        `l1_still` is the error of the unchanged reference, which a model has to beat. `mouth_cos` and `pose_cos` are
        the cosines between the codes of both ways; 1 is the goal.
        """
        drawn, target, mouth = (
            _drawn(modules["gen"], batch),
            batch["target"].flatten(0, 1),
            batch["mouth"].flatten(0, 1),
        )
        figures = {"l1_still": functional.l1_loss(batch["reference"].flatten(0, 1), target)}
        for name, output in (("self", drawn.own), ("cross", drawn.crossed)):
            figures[f"l1_{name}"] = functional.l1_loss(output.clamp(-1, 1), target)
            figures[f"l1_mouth_{name}"] = mouth_l1(output.clamp(-1, 1), target, mouth)
            figures[f"psnr_{name}_db"] = psnr_db(output, target)
        return figures | {f"{name}_cos": cosine.mean() for name, cosine in _cosines(drawn).items()}

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Columns: reference, target, the target with the other's mouth, driven by itself, cross-driven."""
        given = [batch[name].flatten(0, 1) for name in ("reference", "target", "swapped")]
        drawn = _drawn(modules["gen"], batch)
        return side_by_side(*given, drawn.own, drawn.crossed)


def _drawn(generator: Callable[..., Any], batch: Batch) -> Crossed:
    """Both reconstructions of a batch of SwapPairs."""
    return generator(batch["reference"], batch["target"], batch["swapped"])


def _cosines(drawn: Crossed) -> dict[str, Tensor]:
    """[2 P] cosine of each face's own and crossed codes, that of their motion vectors (orthonormal directions)."""
    pairs = {name: (getattr(drawn.own_codes, name), getattr(drawn.crossed_codes, name)) for name in ("mouth", "pose")}
    return {name: functional.cosine_similarity(one.float(), other.float()) for name, (one, other) in pairs.items()}
