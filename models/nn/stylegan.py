"""Building blocks of StyleGAN2-type networks: equalised layers, blur, leaky ReLU with bias, modulated convolution.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020; equalised learning rate from
"Progressive Growing of GANs", ICLR 2018. Images and features are [B, C, H, W] float; parameter names and shapes are
those that published checkpoints of this family have.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

BLUR = (1.0, 3.0, 3.0, 1.0)
SLOPE = 0.2


def blur_kernel(gain: float = 1.0) -> Tensor:
    """[4, 4] the separable binomial filter; its entries sum to `gain`."""
    row = torch.tensor(BLUR)
    square = torch.outer(row, row)
    return square / square.sum() * gain


def blur(x: Tensor, kernel: Tensor, pad: int) -> Tensor:
    """Filters every channel after padding all sides with `pad` zeros: H becomes H + 2 pad - K + 1."""
    return functional.conv2d(x, _per_channel(kernel, x), padding=pad, groups=x.shape[1])


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Twice the size: zeros between the pixels, then the [4, 4] filter, whose entries should sum to 4."""
    return functional.conv_transpose2d(x, _per_channel(kernel, x), stride=2, padding=1, groups=x.shape[1])


def _per_channel(kernel: Tensor, x: Tensor) -> Tensor:
    return kernel.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, *kernel.shape)


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, times sqrt(2), which keeps the variance of a unit normal input about 1."""
    return functional.leaky_relu(x, SLOPE) * math.sqrt(2)


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context without automatic mixed precision on the device of `x`, for what is summed over levels or inverted."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class Blur(nn.Module):
    """`blur` with the kernel in the state dict."""

    kernel: Tensor

    def __init__(self, pad: int, gain: float = 1.0) -> None:
        super().__init__()
        self.pad = pad
        self.register_buffer("kernel", blur_kernel(gain))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same, less what the kernel takes."""
        return blur(x, self.kernel, self.pad)


class Upsample(nn.Module):
    """`upsample` with the kernel in the state dict."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2 H, 2 W]."""
        return upsample(x, self.kernel)


class BiasedLeakyReLU(nn.Module):
    """Adds a bias, then `leaky_relu`.

    Args:
        *bias_shape: (1, C, 1, 1) for images, (C,) for vectors.
    """

    def __init__(self, *bias_shape: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(bias_shape))

    def forward(self, x: Tensor) -> Tensor:
        """[B, *C] -> the same shape."""
        return leaky_relu(x + self.bias.to(x.dtype))


class EqualConv2d(nn.Module):
    """Convolution without bias; weights are unit normal at the start and scaled by 1/sqrt(fan in) when used."""

    def __init__(self, num_in: int, num_out: int, kernel_px: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in, kernel_px, kernel_px))
        self.scale = 1 / math.sqrt(num_in * kernel_px**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        return functional.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    """Linear layer, weights as in EqualConv2d.

    Args:
        num_in, num_out: lengths of the vectors.
        bias_init: value of every bias at the start.
        is_activated: `leaky_relu` behind it.
    """

    def __init__(self, num_in: int, num_out: int, bias_init: float = 0.0, is_activated: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in))
        self.bias = nn.Parameter(torch.full((num_out,), bias_init))
        self.scale = 1 / math.sqrt(num_in)
        self.is_activated = is_activated

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C']."""
        out = functional.linear(x, self.weight * self.scale, self.bias)
        return leaky_relu(out) if self.is_activated else out


def conv_layer(
    num_in: int, num_out: int, kernel_px: int, is_halved: bool = False, is_activated: bool = True
) -> nn.Sequential:
    """[blur,] equalised convolution [, bias and leaky ReLU]; keeps H and W, or halves them."""
    layers: list[nn.Module] = []
    if is_halved:
        # 4 taps of the blur and the taps of the convolution, padded so that exactly half of the size is left
        layers.append(Blur(pad=(kernel_px + 1) // 2))
    padding = 0 if is_halved else kernel_px // 2
    layers.append(EqualConv2d(num_in, num_out, kernel_px, stride=2 if is_halved else 1, padding=padding))
    if is_activated:
        layers.append(BiasedLeakyReLU(1, num_out, 1, 1))
    return nn.Sequential(*layers)


class ResidualDown(nn.Module):
    """Residual block that halves H and W: two 3x3 convolutions beside a 1x1 one; the sum keeps the variance."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv1 = conv_layer(num_in, num_in, 3)
        self.conv2 = conv_layer(num_in, num_out, 3, is_halved=True)
        self.skip = conv_layer(num_in, num_out, 1, is_halved=True, is_activated=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / 2, W / 2]."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled per sample by an affine function of a style vector.

    With demodulation every output channel is divided by the L2 norm of its scaled weights. Scaling the input and the
    output instead of the weights gives the same numbers with one convolution for the whole batch.

    Args:
        num_in, num_out, kernel_px: of the convolution, which keeps H and W.
        style_dim: length of the style vector.
        is_demodulated: as above.
        is_doubled: H and W are doubled by a transposed convolution and blurred.
    """

    def __init__(
        self, num_in: int, num_out: int, kernel_px: int, style_dim: int,
        is_demodulated: bool = True, is_doubled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, num_out, num_in, kernel_px, kernel_px))
        self.scale = 1 / math.sqrt(num_in * kernel_px**2)
        self.modulation = EqualLinear(style_dim, num_in, bias_init=1.0)
        self.blur = Blur(pad=1, gain=4.0) if is_doubled else None
        self.is_demodulated = is_demodulated
        self.padding = kernel_px // 2

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, C, H, W] features (B may be 1) and [B, style_dim] styles -> [B, C', H, W] or twice that size."""
        weight = self.weight[0] * self.scale
        # In half precision these few numbers per frame would jitter from frame to frame, and the image with them.
        with no_autocast(x):
            scales = self.modulation(style.float())
            squares = scales.square() @ weight.square().sum((2, 3)).T if self.is_demodulated else None
        out = self._convolve(x * scales[:, :, None, None].to(x.dtype), weight)
        return out if squares is None else out * torch.rsqrt(squares + 1e-8)[:, :, None, None].to(out.dtype)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.blur is None:
            return functional.conv2d(x, weight, padding=self.padding)
        return self.blur(functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2))


class UnusedNoise(nn.Module):
    """Strength of StyleGAN2's noise input, which is never given here; kept so that state dicts fit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, bias, leaky ReLU; optionally doubles H and W."""

    def __init__(self, num_in: int, num_out: int, style_dim: int, is_doubled: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(num_in, num_out, 3, style_dim, is_doubled=is_doubled)
        self.noise = UnusedNoise()
        self.activate = BiasedLeakyReLU(1, num_out, 1, 1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """As ModulatedConv2d."""
        return self.activate(self.conv(x, style))
