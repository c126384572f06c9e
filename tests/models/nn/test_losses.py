"""Losses against closed forms."""

import math

import pytest
import torch

from models.nn.losses import gradient_penalty, logistic_discriminator_loss, logistic_generator_loss, psnr_db


def test_adversarial_losses_are_binary_cross_entropies() -> None:
    real, fake = torch.randn(8, 1), torch.randn(8, 1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = entropy(real, torch.ones(8, 1)) + entropy(fake, torch.zeros(8, 1))
    torch.testing.assert_close(logistic_discriminator_loss(real, fake), expected)
    torch.testing.assert_close(logistic_generator_loss(fake), entropy(fake, torch.ones(8, 1)))


def test_the_generator_still_learns_from_a_lost_case() -> None:
    """Non-saturating: where the discriminator is sure, the gradient is about 1 and not about 0."""
    score = torch.tensor([[-20.0]], requires_grad=True)
    logistic_generator_loss(score).backward()
    assert score.grad is not None
    assert score.grad.item() == pytest.approx(-1, abs=1e-6)


def test_the_gradient_penalty_of_a_quadratic_is_known() -> None:
    images = torch.randn(4, 3, 2, 2, requires_grad=True)
    scale = torch.tensor(3.0, requires_grad=True)
    scores = scale / 2 * images.square().flatten(1).sum(1, keepdim=True)
    penalty = gradient_penalty(scores, images)
    squares = images.square().flatten(1).sum(1).mean()
    torch.testing.assert_close(penalty, 9 * squares / 2)
    penalty.backward()
    torch.testing.assert_close(scale.grad, 3 * squares)


def test_psnr_is_that_of_the_range_and_the_mean_over_images() -> None:
    target = torch.zeros(2, 3, 4, 4)
    output = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 0.02)])
    assert psnr_db(output, target).item() == pytest.approx((20 + 40) / 2, abs=1e-4)
    # colours beyond the range are shown as its ends
    assert psnr_db(torch.full_like(target, 7.0), torch.ones_like(target)).item() == pytest.approx(10 * math.log10(4e10))
