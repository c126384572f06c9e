"""Stage 2: the expression bank, its head and the blocks that adapt the portrait's features (EEM), all else frozen.

EDTalk section 3.3, of which no code was released: "self-reconstruction complementary learning". A frame is redrawn from
another one of the same person with its own mouth, pose and expression codes. The part of mouth and pose is fixed by
stage 1, so that the new parts can only learn the residual expression. They start without any effect: the first images
are exactly those of stage 1. The reference of an emotional frame is a neutral one where there is any (see FramePairs);
otherwise there would be no residual.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from torch.utils.data import default_collate

from models.data.clip_dataset import validation_set
from models.edtalk.data.frame_pairs import FramePairs
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.expression_block import ExpressionBlock
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import SMALL
from models.edtalk.training.image_losses import (
    SMALL_LOSSES,
    ImageLosses,
    ImageStageConfig,
    discriminator_adam,
    side_by_side,
)
from models.edtalk.weights.parent_state import discriminator_of, has_rgb_residual, part_of
from models.edtalk.weights.published_checkpoints import NOT_IN_MOUTH_POSE, fit_state
from models.nn.losses import psnr_db
from models.nn.stylegan import EqualLinear
from models.training.engine.config import TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from storage.snapshot import Snapshot

VERSION = 2
PARENT = "mouth_pose"
PARENTS: tuple[str, ...] = (PARENT,)
PUBLISHED = "EDTalk"
FEATURES: tuple[str, ...] = ("landmarks",)

_NAVIGATION, _BLOCKS = ("exp_fc.", "direction_exp."), ("dec.fineadainresblock.",)


class Config(ImageStageConfig):
    """Settings of the stage, beside those of ImageStageConfig.

    Attributes:
        block_lr: learning rate of the blocks (EEM). Their layers are ordinary ones; in the equalised layers elsewhere a
            step of the same rate changes the effective weights by 1/sqrt(inputs) of it only. At the generator's rate
            the blocks learn to change every image alike sooner than to follow the expression.
        generator_from_step: first step in which the generator is trained too; None is never. (Before it the generator
            keeps its weights; where gradients are clipped, its gradients are part of the norm all the same.)
    """

    block_lr: PositiveFloat = 1e-4
    generator_from_step: NonNegativeInt | None = None


SMOKE = TrainConfig(
    max_steps=12, batch_size=2, log_every=3, val_every=12, val_batches=2, image_every=12, save_every=12
)  # fmt: skip

PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(train=SMOKE, shape=SMALL, losses=SMALL_LOSSES),
        # "about 6 hours", nothing else is known
        "paper": Config(train=TrainConfig(max_steps=40_000, batch_size=8, num_workers=4, val_batches=20)),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "ExpressionLearner":
    """The learner on the clips of the splits 'train' and 'val' that show a face.

    Raises:
        ConfigError: there is no such clip to train on.
        WeightsError: VGG-19 is asked for and its file is missing, or the parent has another shape.
    """
    size_px, seed = config.shape.size_px, config.train.seed
    train_set = FramePairs(snapshot, "train", size_px, seed)
    val_set = validation_set(lambda: FramePairs(snapshot, "val", size_px, seed))
    return ExpressionLearner(config, train_set, val_set, parents[PARENT])


class ExpressionLearner:
    """Trains parts of 'gen' (an EDTalk) against 'dis'; see learner.Learner for the attributes."""

    def __init__(
        self, config: Config, train_set: FramePairs, val_set: FramePairs | None, parent: Mapping[str, Tensor]
    ) -> None:
        self._generator_from_step = config.generator_from_step
        own = part_of(parent, "gen")
        generator = EDTalk(config.shape, has_rgb_residual=has_rgb_residual(own))
        fit_state(generator, own, PARENT, NOT_IN_MOUTH_POSE)
        start_without_effect(generator)
        discriminator = discriminator_of(parent, config.shape, PARENT)
        self.modules = {"gen": generator, "dis": discriminator}
        self.optimizers = {
            "gen": _adam(generator, config),
            "dis": discriminator_adam(discriminator.parameters(), config.losses),
        }
        self.averaged, self.exported = ("gen",), ("gen", "dis")
        self.train_set, self.val_set, self.collate = train_set, val_set, default_collate
        self._losses = ImageLosses(config.losses, discriminator)
        self._rate = config.losses.generator_lr

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """One step of the trained parts of the model, one of the discriminator."""
        if self._generator_from_step is not None:
            # a rate of 0 until then, not another set of parameters: processes agree on those once, at the start
            is_late = trainer.step >= self._generator_from_step
            self.optimizers["gen"].param_groups[2]["lr"] = self._rate if is_late else 0.0
        target = batch["target"]
        with trainer.autocast():
            output, codes = trainer.module("gen")(batch["reference"], target)
            loss, parts = self._losses.generator(output, target)
        trainer.update("gen", loss)
        parts |= self._losses.train_discriminator(target, output, trainer)
        return parts | {"expression_size": codes.expression.detach().float().norm(dim=1).mean()}

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Losses of the redrawn targets as in training, the mean absolute error of values in -1..1, and PSNR.

        `l1` and `perceptual` should be below `_without`, those with the expression code set to zero, and below
        `_mouth_pose`, those without the parts of this stage; `effect` is the mean change of a value by the expression
        code. `l1_still` is the error of the unchanged reference.
        """
        drawn, target = drawn_ways(modules, batch), batch["target"]
        figures = {
            "effect": functional.l1_loss(drawn[""], drawn["_without"]),
            "l1_still": functional.l1_loss(batch["reference"], target),
            "psnr_db": psnr_db(drawn[""], target),
        }
        for way, image in drawn.items():
            parts = self._losses.generator(image, target)[1]
            figures |= {f"{name}{way}": parts[name] for name in ("l1", "perceptual")}
        return figures

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Columns: reference, target, the model without the parts of this stage, without expression, with it."""
        drawn = drawn_ways(modules, batch)
        ways = (drawn[way] for way in ("_mouth_pose", "_without", ""))
        return side_by_side(batch["reference"], batch["target"], *ways)


def start_without_effect(model: EDTalk) -> None:
    """Sets the parts of the expression so that images are those of the model without them, and gradients flow.

    The head gives codes of zero. Each block adds zero times its normalised features plus zero; a zero convolution would
    be unstable, as normalising amplifies its first change.
    """
    last = cast(EqualLinear, model.exp_fc[-1])
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    for block in model.dec.fineadainresblock:
        norm = cast(ExpressionBlock, block).norm2
        for layer, bias in ((norm.mlp_gamma, -1.0), (norm.mlp_beta, 0.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)


def drawn_ways(modules: Modules, batch: Batch) -> dict[str, Tensor]:
    """[B, 3, S, S] in -1..1 each, the targets redrawn from their references.

    '' is with all codes, '_without' with those of the expression set to zero, '_mouth_pose' without its bank, head and
    blocks.
    """
    model = cast(EDTalk, modules["gen"])
    identity, directions = model.encode_identity(batch["reference"]), model.directions()
    codes = model.codes(model.encode(batch["target"]))
    plain = Codes(codes.mouth, codes.pose)
    images = {
        "": model.render(identity, codes, directions),
        "_without": model.render(identity, plain, directions),
        "_mouth_pose": model.dec(identity, identity.latent + model.motion(plain, directions)[0]),
    }
    return {way: image.clamp(-1, 1) for way, image in images.items()}


def _adam(model: EDTalk, config: Config) -> Adam:
    """Adam for head and bank, for the blocks and, in a third group, for the generator if it is ever trained."""
    alive = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    navigation = [weight for name, weight in alive.items() if name.startswith(_NAVIGATION)]
    blocks = [weight for name, weight in alive.items() if name.startswith(_BLOCKS)]
    rest = [weight for name, weight in alive.items() if name.startswith("dec.") and not name.startswith(_BLOCKS)]
    groups = [{"params": navigation}, {"params": blocks, "lr": config.block_lr}]
    groups += [{"params": rest}] if config.generator_from_step is not None else []
    model.requires_grad_(False)
    for group in groups:
        for weight in group["params"]:
            weight.requires_grad_(True)
    return Adam(groups, lr=config.losses.generator_lr, betas=config.losses.generator_betas)
