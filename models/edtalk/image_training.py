"""What the stages that train a generator on images have in common: losses, optimisers, the discriminator's step.

Loss weights and Adam's settings are those of the released training code; averaged weights, mixed precision and the
gradient penalty (off) are not in it.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from models.learner import Trainer
from models.losses import gradient_penalty, logistic_discriminator_loss, logistic_generator_loss
from models.perceptual import WEIGHTS, PerceptualLoss, load_vgg, random_vgg

GENERATOR_LR, GENERATOR_BETAS = 0.002 * 4 / 5, (0.0, 0.99 ** (4 / 5))
DISCRIMINATOR_LR, DISCRIMINATOR_BETAS = 0.002 * 16 / 17, (0.0, 0.99 ** (16 / 17))


class ImageLossConfig(BaseModel):
    """Settings of the losses on images.

    Attributes:
        perceptual: features that are compared: of VGG-19 trained on ImageNet, or of a random network of that form.
        perceptual_width: share of the channels of the random one.
        perceptual_weight, l1_weight, gan_weight: of the losses.
        r1_weight: of the discriminator's gradient penalty, which is computed every `r1_every` steps; 0 leaves it out.
        generator_lr, discriminator_lr: learning rates.
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

    def weights(self) -> tuple[str, ...]:
        """Entries of models/weights.toml that the losses need."""
        return (WEIGHTS,) if self.perceptual == "vgg19" else ()


def generator_adam(parameters: Iterable[nn.Parameter], config: ImageLossConfig) -> Adam:
    """Adam for the parameters that are trained."""
    return Adam([p for p in parameters if p.requires_grad], lr=config.generator_lr, betas=GENERATOR_BETAS)


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
        self._perceptual = PerceptualLoss(
            load_vgg() if config.perceptual == "vgg19" else random_vgg(width=config.perceptual_width)
        )

    def generator(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of rendered images [B, 3, S, S] that should look like `target`; its parts, detached."""
        # not through the trainer: the discriminator gets no gradients here, and none are to be exchanged
        self._discriminator.requires_grad_(False)
        parts = {
            "perceptual": self._perceptual(output, target),
            "l1": functional.l1_loss(output, target),
            "gan": logistic_generator_loss(self._discriminator(output)),
        }
        self._discriminator.requires_grad_(True)
        config = self._config
        loss = config.perceptual_weight * parts["perceptual"] + config.l1_weight * parts["l1"]
        loss = loss + config.gan_weight * parts["gan"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def discriminator(self, real: Tensor, fake: Tensor, trainer: Trainer) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the learner's module 'dis' on real and rendered images [B, 3, S, S]; its parts, detached."""
        scorer, config = trainer.module("dis"), self._config
        with trainer.autocast():
            loss = logistic_discriminator_loss(scorer(real), scorer(fake.detach()))
        parts = {"dis": loss.detach()}
        if not config.r1_weight:
            return loss, parts
        # for all steps at once, so that the mean over steps is what it would be if every step had one
        penalty = self._penalty(real, scorer) if trainer.step % config.r1_every == 0 else loss.new_zeros(())
        return loss + config.r1_weight * penalty, parts | {"r1": penalty.detach()}

    def _penalty(self, real: Tensor, scorer: Callable[[Tensor], Tensor]) -> Tensor:
        images = real.detach().requires_grad_(True)
        return self._config.r1_every * gradient_penalty(scorer(images), images)
