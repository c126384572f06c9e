"""EEM, the emotion enhancement module: portrait features adapted to the expression before they are warped.

EDTalk section 3; adaptive instance normalisation from Huang and Belongie, ICCV 2017. The published block holds two
convolutions, but the second reads the block's input, so the first and its normalisation never had an effect. They are
kept as frozen parameters, so that published state dicts load, and not computed.
"""

from torch import Tensor, nn
from torch.nn import functional

NUM_HIDDEN = 128


class AdaptiveNorm(nn.Module):
    """Scale and shift of normalised features from a condition vector.

    Attributes:
        mlp_shared, mlp_gamma, mlp_beta: D -> 128 -> C each.
    """

    def __init__(self, num_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Linear(condition_dim, NUM_HIDDEN), nn.ReLU())
        self.mlp_gamma = nn.Linear(NUM_HIDDEN, num_channels)
        self.mlp_beta = nn.Linear(NUM_HIDDEN, num_channels)

    def forward(self, normal: Tensor, condition: Tensor) -> Tensor:
        """[B or 1, C, S, S] normalised features and [B, D] condition -> [B, C, S, S]."""
        hidden = self.mlp_shared(condition)
        gamma, beta = (layer(hidden)[:, :, None, None] for layer in (self.mlp_gamma, self.mlp_beta))
        return normal * (1 + gamma) + beta


class ExpressionBlock(nn.Module):
    """Residual block of one feature map; the part independent of the expression is `prepare`d once per portrait."""

    def __init__(self, num_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(num_channels, num_channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = (AdaptiveNorm(num_channels, condition_dim) for _ in range(2))
        for unused in (self.conv1, self.norm1):
            unused.requires_grad_(False)

    def prepare(self, features: Tensor) -> Tensor:
        """[B, C, S, S] -> the same size: convolved and normalised over each image's plane."""
        return functional.instance_norm(self.conv2(features))

    def forward(self, features: Tensor, prepared: Tensor, condition: Tensor) -> Tensor:
        """Features and `prepare(features)` [B or 1, C, S, S], condition [B, D] -> [B, C, S, S]."""
        return features + self.norm2(prepared, condition)
