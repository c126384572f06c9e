"""Latent navigation: motion codes and the banks of directions that they weight.

EDTalk section 3; linear motion decomposition from Wang et al., "Latent Image Animator", ICLR 2022.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.nn.stylegan import EqualLinear, no_autocast

# Added to the banks before they are made orthonormal; published weights were trained with it.
BANK_OFFSET = 1e-8


@dataclass(frozen=True, slots=True)
class Codes:
    """Weights of the directions of each bank, per frame.

    Attributes:
        mouth: [B, 20].
        pose: [B, 6].
        expression: [B, 10]; None without this bank, or for no expression.
    """

    mouth: Tensor
    pose: Tensor
    expression: Tensor | None = None


class Bank(nn.Module):
    """[D, K] weights whose columns span K directions."""

    def __init__(self, latent_dim: int, num_directions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(latent_dim, num_directions))


def orthonormal(*banks: Bank) -> Tensor:
    """[D, K] float32 orthonormal directions of the banks side by side: Q of their thin QR decomposition.

    The first columns depend on the first banks only. The signs are those of LAPACK's Householder reflections, on every
    device: another library may choose others, and codes of a model trained elsewhere would mean the opposite.
    """
    weight = torch.cat([bank.weight.float() for bank in banks], dim=1)
    with no_autocast(weight):
        return torch.linalg.qr(weight.cpu() + BANK_OFFSET)[0].to(weight.device)


def linear_head(latent_dim: int, num_layers: int, num_out: int) -> nn.Sequential:
    """Linear layers without activations between them: an affine function [B, D] -> [B, num_out], as published."""
    sizes = [latent_dim] * num_layers + [num_out]
    return nn.Sequential(*(EqualLinear(a, b) for a, b in pairwise(sizes)))
