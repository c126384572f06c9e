"""Flow fields: the place in the portrait's features from which each pixel of the generator's is taken."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nn.stylegan import ModulatedConv2d, Upsample, no_autocast


def corner_grid(side_px: int) -> Tensor:
    """[S, S, 2] (x, y) from -1 to 1 with the corner pixels' centres at -1 and 1."""
    line = torch.linspace(-1, 1, side_px)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


def warp(features: Tensor, offsets: Tensor, grid: Tensor) -> Tensor:
    """Samples features [B, C, S, S] at grid [S, S, 2] + offsets [B, 2, S, S] (x, y), zero outside.

    The grid has -1 and 1 at the corner pixels' centres, grid_sample at the image's edges, so that a zero offset is a
    slight zoom and not the identity. Published weights were trained with it.
    """
    places = grid + offsets.permute(0, 2, 3, 1).float()
    return functional.grid_sample(features.float(), places, padding_mode="zeros", align_corners=False).to(
        features.dtype
    )


class ToFlow(nn.Module):
    """A flow field and a mask from the generator's features, and the portrait's features warped by them."""

    grid: Tensor

    def __init__(self, num_channels: int, style_dim: int, side_px: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Upsample()
        self.conv = ModulatedConv2d(num_channels, 3, 1, style_dim, is_demodulated=False)
        self.register_buffer("grid", corner_grid(side_px), persistent=False)

    def forward(
        self, x: Tensor, style: Tensor, features: Tensor, coarser: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One level of the generator.

        Args:
            x: [B, C, S, S] features of the generator.
            style: [B, D].
            features: [B, C, S, S] features of the portrait.
            coarser: [B, 3, S/2, S/2] raw field of the level before, None at the first.

        Returns:
            [B, C, S, S] warped and masked features of the portrait; the same filled up with `x` where the mask is low;
            [B, 3, S, S] raw field (x, y, mask before tanh and sigmoid), always float32: it is summed over levels.
        """
        with no_autocast(x):
            field = self.conv(x.float(), style.float()) + self.bias
            field = field if coarser is None else field + self.upsample(coarser)
        mask = torch.sigmoid(field[:, 2:])
        warped = warp(features, torch.tanh(field[:, :2]), self.grid) * mask.to(features.dtype)
        return warped, warped + x * (1 - mask).to(x.dtype), field
