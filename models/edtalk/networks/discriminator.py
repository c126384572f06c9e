"""Discriminator: the residual one of StyleGAN2 (Karras et al., CVPR 2020)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.edtalk.networks.shape import CORE_PX, Shape
from models.nn.stylegan import EqualLinear, ResidualDown, conv_layer

MAX_GROUP = 4


def append_batch_deviation(x: Tensor) -> Tensor:
    """Appends a channel: the mean deviation of the features within groups of a few samples (Karras et al., 2018).

    Groups hold 4 samples, or the largest smaller number that divides the batch.
    """
    batch, _, height, width = x.shape
    group = next(size for size in range(min(batch, MAX_GROUP), 0, -1) if batch % size == 0)
    grouped = x.float().unflatten(0, (group, batch // group))
    deviation = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    channel = deviation.repeat(group)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class Discriminator(nn.Module):
    """Images to realness scores.

    Args:
        shape: sizes.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        channels = (shape or Shape()).channels_down
        num_core = channels[-1]
        blocks = (ResidualDown(fine, coarse) for fine, coarse in pairwise(channels))
        self.convs = nn.Sequential(conv_layer(3, channels[0], 1), *blocks)
        self.final_conv = conv_layer(num_core + 1, num_core, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(num_core * CORE_PX**2, num_core, is_activated=True), EqualLinear(num_core, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] in -1..1 -> [B, 1] scores, high for real."""
        x = append_batch_deviation(self.convs(images))
        return self.final_linear(self.final_conv(x).flatten(1))
