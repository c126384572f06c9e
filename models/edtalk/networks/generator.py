"""Generator G: a latent vector and the portrait's features to an image, all of whose pixels are warped features.

Wang et al., "Latent Image Animator", ICLR 2022, on the synthesis network of StyleGAN2.
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from models.edtalk.networks.expression_block import ExpressionBlock
from models.edtalk.networks.flow import ToFlow
from models.edtalk.networks.shape import CORE_PX, Shape
from models.nn.stylegan import EqualConv2d, StyledConv, Upsample, conv_layer, no_autocast


@dataclass(frozen=True, slots=True)
class IdentityFeatures:
    """An encoded portrait; B is 1 to drive one image with many frames.

    Attributes:
        latent: [B, D].
        features: [B, C, s, s] for s = 8, 16, ... size_px.
        prepared: one tensor per feature map for the expression blocks, see `Generator.prepare`; empty without them.
    """

    latent: Tensor
    features: tuple[Tensor, ...]
    prepared: tuple[Tensor, ...] = ()


class ConstantInput(nn.Module):
    """The learned [1, C, 4, 4] features that the generator starts from."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, num_channels, CORE_PX, CORE_PX))


class ToRgb(nn.Module):
    """Colours from warped portrait features, added to those of the coarser level."""

    def __init__(self, num_channels: int, has_upsample: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = conv_layer(num_channels, 3, 1)
        if has_upsample:
            self.upsample = Upsample()

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        """[B, C, S, S] and [B, 3, S/2, S/2] -> [B, 3, S, S] float32: colours are summed over levels."""
        with no_autocast(x):
            rgb = self.conv(x.float()) + self.bias
            return rgb if coarser is None else rgb + self.upsample(coarser)


class RgbResidual(nn.Module):
    """Colours from the generator's own features, which can show what the portrait does not: teeth, an open mouth.

    Not in the published model. Zero at the start, so published weights give the same images with and without it.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.conv = EqualConv2d(num_channels, 3, 1)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, 3, S, S] float32."""
        with no_autocast(x):
            return self.conv(x.float()) + self.bias


class Generator(nn.Module):
    """Per level: two styled convolutions, a flow field that warps the portrait's features, colours.

    Args:
        shape: sizes.
        has_expression: adds the expression blocks.
        has_rgb_residual: adds RgbResidual at every level.
    """

    def __init__(self, shape: Shape, has_expression: bool = False, has_rgb_residual: bool = False) -> None:
        super().__init__()
        channels, dim = [shape.channels(side) for side in shape.sides_px], shape.latent_dim
        num_core = shape.channels(CORE_PX)
        self.input = ConstantInput(num_core)
        self.conv1 = StyledConv(num_core, num_core, dim)
        # Colours of the 4 px level: unused, kept so that published state dicts load.
        self.to_rgb1 = ToRgb(num_core, has_upsample=False).requires_grad_(False)
        self.convs = nn.ModuleList()
        for before, after in zip([num_core, *channels], channels, strict=False):
            self.convs += [StyledConv(before, after, dim, is_doubled=True), StyledConv(after, after, dim)]
        self.to_flows = nn.ModuleList(ToFlow(n, dim, s) for n, s in zip(channels, shape.sides_px, strict=True))
        self.to_rgbs = nn.ModuleList(ToRgb(n) for n in channels)
        if has_expression:
            self.fineadainresblock = nn.ModuleList(ExpressionBlock(n, dim) for n in channels)
        if has_rgb_residual:
            self.rgb_residuals = nn.ModuleList(RgbResidual(n) for n in channels)
        self.has_expression, self.has_rgb_residual = has_expression, has_rgb_residual

    def prepare(self, identity: IdentityFeatures) -> IdentityFeatures:
        """The features with the part of the expression blocks that is the same in all frames of a portrait."""
        if not self.has_expression:
            return identity
        pairs = zip(self._expression_blocks(), identity.features, strict=True)
        return replace(identity, prepared=tuple(block.prepare(features) for block, features in pairs))

    def forward(self, identity: IdentityFeatures, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        """Renders frames.

        Args:
            identity: its batch is that of the latents, or 1. From `prepare` when the generator has expression blocks.
            latent: [B, D].
            condition: [B, D] sum of the expression directions, with expression blocks only.

        Returns:
            [B, 3, S, S] float32 about -1..1, not clamped.
        """
        x = self.conv1(self.input.input, latent)
        field = rgb = None
        for level, features in enumerate(self._adapted(identity, condition)):
            x = self.convs[2 * level + 1](self.convs[2 * level](x, latent), latent)
            warped, x, field = self.to_flows[level](x, latent, features.expand(len(x), -1, -1, -1), field)
            rgb = self.to_rgbs[level](warped, rgb)
            if self.has_rgb_residual:
                rgb = rgb + self.rgb_residuals[level](x)
        return cast(Tensor, rgb)

    def _adapted(self, identity: IdentityFeatures, condition: Tensor | None) -> list[Tensor]:
        """The portrait's features, through the expression blocks when there are any."""
        if not self.has_expression or condition is None:
            return list(identity.features)
        triples = zip(self._expression_blocks(), identity.features, identity.prepared, strict=True)
        return [block(features, prepared, condition) for block, features, prepared in triples]

    def _expression_blocks(self) -> list[ExpressionBlock]:
        return [cast(ExpressionBlock, block) for block in self.fineadainresblock]
