"""Losses and optimisers of the image stages."""

from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.shape import Shape
from models.edtalk.training.image_losses import (
    ImageLossConfig,
    ImageLosses,
    discriminator_adam,
    generator_adam,
    side_by_side,
)
from models.nn.losses import logistic_discriminator_loss, logistic_generator_loss
from models.nn.perceptual import PerceptualLoss, random_vgg

RANDOM = ImageLossConfig(perceptual="random", perceptual_width=1 / 16)


class Steps:
    """As much of a trainer as the losses ask for; keeps the losses it is to make steps on."""

    def __init__(self, discriminator: nn.Module, step: int) -> None:
        self.discriminator, self.step = discriminator, step
        self.updates: list[tuple[str, torch.Tensor]] = []

    def update(self, optimizer: str, loss: torch.Tensor) -> None:
        self.updates.append((optimizer, loss))

    def autocast(self) -> Any:
        return nullcontext()

    def module(self, name: str) -> nn.Module:
        assert name == "dis"
        return self.discriminator


def step_of(
    losses: ImageLosses, discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor, step: int = 0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss that the discriminator makes its step on, and its parts."""
    trainer = Steps(discriminator, step)
    parts = losses.train_discriminator(real, fake, cast(Any, trainer))
    ((optimizer, loss),) = trainer.updates
    assert optimizer == "dis"
    return loss, parts


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(Shape(size_px=32, width=1 / 32))


def test_the_generators_loss_is_the_weighted_sum_of_its_parts(discriminator: Discriminator) -> None:
    config = RANDOM.model_copy(update={"perceptual_weight": 2.0, "l1_weight": 3.0, "gan_weight": 5.0})
    output, target = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    loss, parts = ImageLosses(config, discriminator).generator(output, target)
    expected = {
        "perceptual": PerceptualLoss(random_vgg(width=1 / 16))(output, target),
        "l1": functional.l1_loss(output, target),
        "gan": logistic_generator_loss(discriminator(output)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value)
    torch.testing.assert_close(loss, 2 * expected["perceptual"] + 3 * expected["l1"] + 5 * expected["gan"])


def test_the_generators_step_leaves_no_gradient_in_the_discriminator(discriminator: Discriminator) -> None:
    output = torch.rand(2, 3, 32, 32, requires_grad=True)
    ImageLosses(RANDOM, discriminator).generator(output, torch.rand(2, 3, 32, 32))[0].backward()
    assert output.grad is not None
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_the_discriminators_step_leaves_no_gradient_in_the_generator(discriminator: Discriminator) -> None:
    real, fake = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32, requires_grad=True)
    loss, parts = step_of(ImageLosses(RANDOM, discriminator), discriminator, real, fake)
    torch.testing.assert_close(loss, logistic_discriminator_loss(discriminator(real), discriminator(fake)))
    loss.backward()
    assert fake.grad is None
    assert set(parts) == {"dis"}


def test_without_weight_the_discriminator_is_left_out(discriminator: Discriminator) -> None:
    """Neither asked nor trained."""
    discriminator.register_forward_hook(lambda *_: pytest.fail("the discriminator was asked"))
    losses = ImageLosses(RANDOM.model_copy(update={"gan_weight": 0.0}), discriminator)
    output, target = torch.rand(2, 3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32)
    loss, parts = losses.generator(output, target)
    torch.testing.assert_close(loss.detach(), parts["perceptual"] + parts["l1"])
    assert set(parts) == {"perceptual", "l1"}
    trainer = Steps(discriminator, 0)
    assert losses.train_discriminator(target, output, cast(Any, trainer)) == {}
    assert trainer.updates == []


def test_the_gradient_penalty_is_computed_now_and_then_and_weighs_as_if_always(discriminator: Discriminator) -> None:
    config = RANDOM.model_copy(update={"r1_weight": 10.0, "r1_every": 4})
    losses, real, fake = ImageLosses(config, discriminator), torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    plain, without = step_of(losses, discriminator, real, fake, step=3)
    assert without["r1"] == 0
    loss, parts = step_of(losses, discriminator, real, fake, step=4)
    torch.testing.assert_close(loss, plain + 10 * parts["r1"])
    # a finite difference along the gradient gives its norm
    images = real.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
    torch.testing.assert_close(parts["r1"], 4 * gradient.square().sum() / 2 / 2)
    loss.backward()
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_adam_is_set_as_in_the_released_code() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    generator = generator_adam(layer.parameters(), ImageLossConfig()).param_groups[0]
    assert generator["params"] == [layer.weight]
    assert generator["lr"] == pytest.approx(0.0016)
    assert generator["betas"] == pytest.approx((0, 0.99**0.8))
    discriminator = discriminator_adam(layer.parameters(), ImageLossConfig()).param_groups[0]
    assert discriminator["lr"] == pytest.approx(0.00188, abs=3e-6)
    assert discriminator["betas"] == pytest.approx((0, 0.99 ** (16 / 17)))


def test_the_weights_that_are_needed_are_told() -> None:
    assert ImageLossConfig().weights() == ("vgg19",)
    assert RANDOM.weights() == ()


def test_columns_stand_side_by_side_and_rows_below_each_other() -> None:
    columns = [torch.full((3, 3, 4, 4), value) for value in (-1.0, 0.0, 3.0)]
    columns[0][1] = 1
    image = side_by_side(*columns, max_rows=2)
    assert image.shape == (3, 8, 12)
    assert image[0, ::4, ::4].tolist() == [[0, 0.5, 1], [1, 0.5, 1]]
