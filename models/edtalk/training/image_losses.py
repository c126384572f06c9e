"""Common parts of the stages that train a generator on images: losses, optimisers, discriminator step, sample images.

Loss weights and Adam's settings are those of the released training code, which has no averaged weights, no mixed
precision and no gradient penalty (off by default).
"""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from models.edtalk.networks.shape import Shape
from models.nn.losses import gradient_penalty, logistic_discriminator_loss, logistic_generator_loss
from models.nn.perceptual import WEIGHTS, PerceptualLoss, load_vgg, random_vgg
from models.training.engine.config import StageConfig
from models.training.engine.learner import Trainer

GENERATOR_LR, GENERATOR_BETAS = 0.002 * 4 / 5, (0.0, 0.99 ** (4 / 5))
DISCRIMINATOR_LR, DISCRIMINATOR_BETAS = 0.002 * 16 / 17, (0.0, 0.99 ** (16 / 17))


class ImageLossConfig(BaseModel):
    """Settings of the losses on images.

    Attributes:
        perceptual: network whose features are compared: VGG-19 trained on ImageNet, or a random network of that form.
        perceptual_width: number of channels of the random one as a share of VGG-19's.
        perceptual_weight: weight of the perceptual loss; 0 leaves it out.
        l1_weight: weight of the mean absolute error.
        gan_weight: weight of the adversarial loss; 0 leaves it out, and the discriminator is not trained.
        r1_weight: weight of the discriminator's gradient penalty, which is computed every `r1_every` steps; 0 leaves it
            out.
        generator_lr, discriminator_lr: learning rates.
        generator_beta1: Adam's first decay rate; 0 as published suits the adversarial loss, without it 0.9 converges
            faster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    perceptual: Literal["vgg19", "random"] = "vgg19"
    perceptual_width: PositiveFloat = 1.0
    perceptual_weight: NonNegativeFloat = 1.0
    l1_weight: NonNegativeFloat = 1.0
    gan_weight: NonNegativeFloat = 1.0
    r1_weight: NonNegativeFloat = 0.0
    r1_every: PositiveInt = 16
    generator_lr: PositiveFloat = GENERATOR_LR
    discriminator_lr: PositiveFloat = DISCRIMINATOR_LR
    generator_beta1: float = Field(default=GENERATOR_BETAS[0], ge=0, lt=1)

    def weights(self) -> tuple[str, ...]:
        """Entries of storage/weights.toml that the losses need."""
        return (WEIGHTS,) if self.has_vgg else ()

    @property
    def generator_betas(self) -> tuple[float, float]:
        """Adam's decay rates for the generator."""
        return self.generator_beta1, GENERATOR_BETAS[1]

    @property
    def has_vgg(self) -> bool:
        """Whether VGG-19's file is needed."""
        return self.perceptual == "vgg19" and self.perceptual_weight > 0


# Losses of the presets `smoke`, which run on a CPU and need no file.
SMALL_LOSSES = ImageLossConfig(perceptual="random", perceptual_width=1 / 16)


class ImageStageConfig(StageConfig):
    """Settings of every stage that trains on images.

    Attributes:
        shape: sizes of the networks, those of the parent if there is one.
        losses: settings of the losses and optimisers.
    """

    shape: Shape = Shape()
    losses: ImageLossConfig = ImageLossConfig()

    def weights(self) -> tuple[str, ...]:
        """See StageConfig."""
        return self.losses.weights()


def generator_adam(parameters: Iterable[nn.Parameter], config: ImageLossConfig) -> Adam:
    """Adam for the parameters that require a gradient."""
    chosen = [p for p in parameters if p.requires_grad]
    return Adam(chosen, lr=config.generator_lr, betas=config.generator_betas)


def discriminator_adam(parameters: Iterable[nn.Parameter], config: ImageLossConfig) -> Adam:
    """Adam for the discriminator."""
    return Adam(parameters, lr=config.discriminator_lr, betas=DISCRIMINATOR_BETAS)


class ImageLosses:
    """The losses of generator and discriminator.

    Args:
        config: weights and rates.
        discriminator: the raw module 'dis' of the learner.

    Raises:
        WeightsError: VGG-19 is asked for and its file is missing.
    """

    def __init__(self, config: ImageLossConfig, discriminator: nn.Module) -> None:
        self._config, self._discriminator = config, discriminator
        self._perceptual = None
        if config.perceptual_weight:
            self._perceptual = PerceptualLoss(
                load_vgg() if config.has_vgg else random_vgg(width=config.perceptual_width)
            )

    def generator(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of rendered images [B, 3, S, S] that should look like `target`; its parts, detached."""
        config = self._config
        perceptual = self._perceptual(output, target) if self._perceptual else output.new_zeros(())
        parts = {"perceptual": perceptual, "l1": functional.l1_loss(output, target)}
        loss = config.perceptual_weight * parts["perceptual"] + config.l1_weight * parts["l1"]
        if config.gan_weight:
            # not through the trainer: the discriminator gets no gradients here, and none are to be exchanged
            self._discriminator.requires_grad_(False)
            parts["gan"] = logistic_generator_loss(self._discriminator(output))
            self._discriminator.requires_grad_(True)
            loss = loss + config.gan_weight * parts["gan"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def train_discriminator(self, real: Tensor, fake: Tensor, trainer: Trainer) -> dict[str, Tensor]:
        """One step of the learner's module 'dis' on real and rendered images [B, 3, S, S]; the parts of its loss."""
        scorer, config = trainer.module("dis"), self._config
        if not config.gan_weight:
            return {}
        with trainer.autocast():
            loss = logistic_discriminator_loss(scorer(real), scorer(fake.detach()))
        parts = {"dis": loss.detach()}
        if config.r1_weight:
            penalty = loss.new_zeros(())
            if trainer.step % config.r1_every == 0:
                images = real.detach().requires_grad_(True)
                # for all steps at once, so that the mean over steps is that of a penalty in every step
                penalty = config.r1_every * gradient_penalty(scorer(images), images)
            loss, parts = loss + config.r1_weight * penalty, parts | {"r1": penalty.detach()}
        trainer.update("dis", loss)
        return parts


def side_by_side(*columns: Tensor, max_rows: int = 4) -> Tensor:
    """One image of several batches of images [B, 3, S, S] in -1..1: a column each, an item of the batch per row.

    Returns:
        [3, rows S, columns S] float32 in 0..1, on the CPU.
    """
    rows = torch.cat([column[:max_rows].float() for column in columns], dim=3)
    return (torch.cat(list(rows), dim=1).clamp(-1, 1).cpu() + 1) / 2
