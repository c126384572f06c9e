"""WaveNet: gated convolutions with residual and skip connections, conditioned at every step.

van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016; not causal and not dilated here, with weight
normalisation (Salimans and Kingma, NeurIPS 2016), as the coupling flows of VITS and Glow-TTS use it.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class WaveNet(nn.Module):
    """[B, C, T] -> [B, C, T]; a value depends on num_layers * (kernel - 1) // 2 steps to either side.

    Args:
        num_channels: C.
        kernel: odd length of each convolution.
        num_layers: gated layers.
        num_condition: G, channels of the condition.
    """

    def __init__(self, num_channels: int, kernel: int, num_layers: int, num_condition: int) -> None:
        super().__init__()
        widths = [2 * num_channels] * (num_layers - 1) + [num_channels]  # behind the last layer no residual is needed
        self.condition = weight_norm(nn.Conv1d(num_condition, 2 * num_channels * num_layers, 1))
        self.gates = nn.ModuleList(
            weight_norm(nn.Conv1d(num_channels, 2 * num_channels, kernel, padding=kernel // 2)) for _ in widths
        )
        self.mixes = nn.ModuleList(weight_norm(nn.Conv1d(num_channels, width, 1)) for width in widths)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """Sum of the skip connections.

        Args:
            x: [B, C, T], zero where the mask is.
            condition: [B, G, T].
            mask: [B, 1, T] 1 or 0; steps with 0 neither give nor get anything.
        """
        skips = torch.zeros_like(x)
        offsets = self.condition(condition).chunk(len(self.gates), dim=1)
        for gate, mix, offset in zip(self.gates, self.mixes, offsets, strict=True):
            content, opening = (gate(x) + offset).chunk(2, dim=1)
            *residual, skip = mix(torch.tanh(content) * torch.sigmoid(opening)).split(x.shape[1], dim=1)
            x = (x + residual[0]) * mask if residual else x
            skips = skips + skip
        return skips * mask
