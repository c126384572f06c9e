"""Convolution blocks of Wav2Lip, from which EDTalk takes its audio encoder and its SyncNet.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild", ACM MM 2020.
"""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional

# in, out, kernel, stride, padding of one block
Block = tuple[int, int, int, int | tuple[int, int], int]


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, the input added where `is_residual`, ReLU."""

    def __init__(
        self, num_in: int, num_out: int, kernel: int, stride: int | tuple[int, int], padding: int, is_residual: bool
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(num_in, num_out, kernel, stride, padding), nn.BatchNorm2d(num_out))
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        out = self.conv_block(x)
        return functional.relu(out + x if self.is_residual else out)


def residual(channels: int, count: int) -> list[Block]:
    """3x3 blocks that keep shape and add their input."""
    return [(channels, channels, 3, 1, 1)] * count


def conv_blocks(blocks: Iterable[Block]) -> nn.Sequential:
    """The blocks in a row; those that keep the shape (stride and padding 1, as many channels) add their input."""
    return nn.Sequential(
        *(
            ConvBlock(num_in, num_out, kernel, stride, padding, num_in == num_out and stride == padding == 1)
            for num_in, num_out, kernel, stride, padding in blocks
        )
    )
