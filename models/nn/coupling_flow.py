"""CouplingFlow: an invertible map that turns the latents of speech motion into unit normal noise and back.

Residual coupling layers that only shift (Dinh et al., "NICE", 2014; with WaveNets inside as in Glow-TTS and VITS, Kim
et al., ICML 2021). A shift of one half by a function of the other half has a triangular Jacobian of ones, and the order
of channels is only reversed in between: log |det| is 0, volumes are preserved.
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.nn.wavenet import WaveNet


class Coupling(nn.Module):
    """Shifts the second half of the channels by what it makes of the first half and the condition.

    Args:
        num_channels: C, even.
        num_hidden, kernel, num_layers: of the WaveNet.
        num_condition: G.
    """

    def __init__(self, num_channels: int, num_hidden: int, kernel: int, num_layers: int, num_condition: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(num_channels // 2, num_hidden, 1)
        self.body = WaveNet(num_hidden, kernel, num_layers, num_condition)
        self.leave = nn.Conv1d(num_hidden, num_channels // 2, 1)
        # the flow starts as the identity, up to the order of the channels
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast(Tensor, self.leave.bias))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor, sign: int) -> Tensor:
        """[B, C, T] with the shift added (sign 1) or taken away again (sign -1)."""
        first, second = x.chunk(2, dim=1)
        hidden = self.body(self.enter(first) * mask, condition, mask)
        return torch.cat([first, second + sign * self.leave(hidden) * mask], dim=1)


class CouplingFlow(nn.Module):
    """Latents [B, C, T] to noise [B, C, T]; `inverse` goes back. log |det| is 0.

    Args:
        num_channels: C, even.
        num_condition: G.
        num_flows: coupling layers.
        num_hidden, kernel, num_layers: of the WaveNet in each.
    """

    def __init__(
        self, num_channels: int, num_condition: int, num_flows: int = 4, num_hidden: int = 64, kernel: int = 3,
        num_layers: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.couplings = nn.ModuleList(
            Coupling(num_channels, num_hidden, kernel, num_layers, num_condition) for _ in range(num_flows)
        )

    def forward(self, latents: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """Noise [B, C, T] of latents.

        Args:
            latents: [B, C, T], zero where the mask is.
            condition: [B, G, T].
            mask: [B, 1, T] 1 or 0.
        """
        for coupling in self.couplings:
            latents = coupling(latents, condition, mask, sign=1).flip(1)
        return latents

    def inverse(self, noise: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """Latents [B, C, T] of noise; arguments as of `forward`."""
        for coupling in reversed(self.couplings):
            noise = coupling(noise.flip(1), condition, mask, sign=-1)
        return noise
