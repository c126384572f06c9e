"""Encoder E: an image to its latent vector and the feature maps that the generator warps.

Wang et al., "Latent Image Animator", ICLR 2022.
"""

from itertools import pairwise

from torch import Tensor, nn

from models.edtalk.networks.shape import CORE_PX, Shape
from models.nn.stylegan import EqualConv2d, ResidualDown, conv_layer, no_autocast


class AppearanceNet(nn.Module):
    """Residual blocks down to 4 px and a last 4x4 convolution."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels_down
        self.convs = nn.ModuleList([conv_layer(3, channels[0], 1)])
        self.convs += [ResidualDown(fine, coarse) for fine, coarse in pairwise(channels)]
        self.convs.append(EqualConv2d(channels[-1], shape.latent_dim, CORE_PX))

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[B, 3, S, S] in -1..1 -> latent [B, D] float32 and features [B, C, s, s] for s = 8, 16, ... S."""
        x, found = images, []
        for conv in self.convs[:-1]:
            x = conv(x)
            found.append(x)
        with no_autocast(x):
            latent = self.convs[-1](x.float()).flatten(1)
        return latent, tuple(reversed(found[:-1]))


class Encoder(nn.Module):
    """The appearance network under its name in published state dicts."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.net_app = AppearanceNet(shape)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See AppearanceNet.forward."""
        return self.net_app(images)
