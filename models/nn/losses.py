"""Losses and figures that several systems share. Images are [B, 3, H, W] in -1..1; results are scalars."""

import torch
from torch import Tensor
from torch.nn import functional


def logistic_discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """-log sigmoid(real) - log(1 - sigmoid(fake)), means over the batch (Goodfellow et al., 2014)."""
    return functional.softplus(-real_scores.float()).mean() + functional.softplus(fake_scores.float()).mean()


def logistic_generator_loss(fake_scores: Tensor) -> Tensor:
    """The non-saturating form, -log sigmoid(fake), mean over the batch."""
    return functional.softplus(-fake_scores.float()).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """R1: half the squared gradient of each score by its real image, mean over the batch (Mescheder et al., 2018).

    Args:
        scores: [B, ...] computed from `images`.
        images: [B, ...], which require gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean() / 2


def psnr_db(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in -1..1 (the output is clamped), mean over the batch."""
    error = (output.float().clamp(-1, 1) - target.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(4 / error.clamp_min(1e-10))).mean()
