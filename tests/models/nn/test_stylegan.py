"""Building blocks against scipy, plain convolutions and a loop over the samples."""

import math

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor
from torch.nn import functional

from models.nn.stylegan import (
    BLUR,
    BiasedLeakyReLU,
    EqualConv2d,
    EqualLinear,
    ModulatedConv2d,
    ResidualDown,
    StyledConv,
    blur,
    blur_kernel,
    conv_layer,
    leaky_relu,
    upsample,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_kernel_is_the_binomial_filter_with_the_given_gain() -> None:
    row = np.array([1, 3, 3, 1]) / 8
    np.testing.assert_allclose(blur_kernel(), np.outer(row, row), rtol=1e-6)
    assert blur_kernel(4.0).sum() == pytest.approx(4)


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_blur_is_scipys_convolution_of_every_channel(pad: int) -> None:
    x, kernel = torch.randn(2, 3, 9, 7), torch.randn(4, 4)
    out = blur(x, kernel, pad)
    for sample in range(2):
        for channel in range(3):
            padded = np.pad(x[sample, channel].numpy(), pad)
            expected = signal.convolve2d(padded, kernel.numpy(), mode="valid")
            np.testing.assert_allclose(out[sample, channel], expected, atol=1e-5)


def test_upsample_is_scipys_upfirdn_in_both_directions() -> None:
    x, taps = torch.randn(1, 2, 5, 6), np.array(BLUR) / 4
    out = upsample(x, blur_kernel(4.0))
    assert out.shape == (1, 2, 10, 12)
    for channel in range(2):
        rows = signal.upfirdn(taps, x[0, channel].numpy(), up=2, axis=0)
        both = signal.upfirdn(taps, rows, up=2, axis=1)
        np.testing.assert_allclose(out[0, channel], both[1:11, 1:13], atol=1e-5)


def test_upsample_keeps_a_constant_and_turns_no_kernel_around() -> None:
    inner = upsample(torch.ones(1, 1, 6, 6), blur_kernel(4.0))[0, 0, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.ones(10, 10))
    kernel = torch.arange(16.0).reshape(4, 4)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1
    # zeros between the pixels put the impulse at (2, 2); the filter starts 1 before it
    assert torch.equal(upsample(x, kernel)[0, 0, 1:5, 1:5], kernel.flip(0, 1))


def test_leaky_relu_has_slope_a_fifth_and_gain_root_two() -> None:
    torch.testing.assert_close(leaky_relu(torch.tensor([-10.0, 0.0, 10.0])), torch.tensor([-2.0, 0, 10]) * 2**0.5)
    layer = BiasedLeakyReLU(1, 2, 1, 1)
    with torch.no_grad():
        layer.bias[0, 1] = 5
    assert torch.equal(layer(torch.zeros(1, 2, 1, 1)).flatten(), torch.tensor([0.0, leaky_relu(torch.tensor(5.0))]))


def test_equalised_layers_keep_the_variance_of_their_input() -> None:
    x = torch.randn(4, 64, 32, 32)
    assert EqualConv2d(64, 64, 3)(x).std().item() == pytest.approx(1, abs=0.05)
    assert EqualLinear(512, 512)(torch.randn(64, 512)).std().item() == pytest.approx(1, abs=0.05)
    # as in StyleGAN2 the weights themselves are of unit size, so that Adam's steps are alike in all layers
    assert EqualConv2d(64, 64, 3).weight.std().item() == pytest.approx(1, abs=0.05)


def test_equalised_linear_layers_start_from_their_bias_and_may_be_activated() -> None:
    layer = EqualLinear(4, 2, bias_init=1.0, is_activated=True)
    torch.testing.assert_close(layer(torch.zeros(1, 4)), torch.full((1, 2), math.sqrt(2)))


@pytest.mark.parametrize("kernel_px", [1, 3])
def test_halving_layers_blur_before_they_stride(kernel_px: int) -> None:
    layer, x = conv_layer(3, 5, kernel_px, is_halved=True, is_activated=False), torch.randn(1, 3, 16, 16)
    pad = {1: 1, 3: 2}[kernel_px]
    taps = blur_kernel().expand(3, 1, 4, 4)
    blurred = functional.conv2d(functional.pad(x, (pad,) * 4), taps, groups=3)
    expected = functional.conv2d(blurred, layer[1].weight / math.sqrt(3 * kernel_px**2), stride=2)
    assert expected.shape == (1, 5, 8, 8)
    torch.testing.assert_close(layer(x), expected)


def test_both_branches_of_a_residual_block_are_centred_alike() -> None:
    """A picture's mirror image gives the mirrored features when the weights are symmetric: nothing is shifted."""
    block = ResidualDown(2, 4)
    with torch.no_grad():
        for name, weight in block.named_parameters():
            if weight.ndim == 4 and "bias" not in name:
                weight.copy_((weight + weight.flip(3)) / 2)
    x = torch.randn(1, 2, 16, 16)
    torch.testing.assert_close(block(x.flip(3)), block(x).flip(3))


def naive_modulated(layer: ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
    """Per sample: weights scaled, normalised, and then used, on an input with zeros between its pixels if doubled."""
    outputs = []
    for features, vector in zip(x, style, strict=True):
        scales = layer.modulation.weight @ vector / math.sqrt(len(vector)) + layer.modulation.bias
        weight = layer.weight[0] / math.sqrt(layer.weight[0, 0].numel()) * scales[None, :, None, None]
        if layer.is_demodulated:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.blur is None:
            outputs.append(functional.conv2d(features[None], weight, padding=layer.padding))
            continue
        channels, height, width = features.shape
        spread = torch.zeros(1, channels, 2 * height - 1, 2 * width - 1)
        spread[0, :, ::2, ::2] = features
        full = functional.conv2d(spread, weight.flip(2, 3), padding=2)
        taps = blur_kernel(4.0).expand(full.shape[1], 1, 4, 4)
        outputs.append(functional.conv2d(full, taps, padding=1, groups=full.shape[1]))
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("kernel_px", "is_demodulated", "is_doubled"), [(3, True, False), (3, True, True), (1, False, False)]
)
def test_modulated_convolution_equals_a_loop_over_samples(
    kernel_px: int, is_demodulated: bool, is_doubled: bool
) -> None:
    layer = ModulatedConv2d(4, 6, kernel_px, 8, is_demodulated, is_doubled)
    x, style = torch.randn(3, 4, 5, 5), torch.randn(3, 8)
    out, expected = layer(x, style), naive_modulated(layer, x, style)
    assert out.shape == (3, 6, 10, 10) if is_doubled else (3, 6, 5, 5)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    weights = [layer.weight, layer.modulation.weight, layer.modulation.bias]
    probe = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad((out * probe).sum(), weights),
        torch.autograd.grad((expected * probe).sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_one_constant_input_serves_a_batch_of_styles() -> None:
    layer, x, styles = ModulatedConv2d(4, 6, 3, 8), torch.randn(1, 4, 5, 5), torch.randn(3, 8)
    torch.testing.assert_close(layer(x, styles), layer(x.expand(3, -1, -1, -1), styles))


def test_the_noise_strength_is_kept_and_never_used() -> None:
    layer, x, style = StyledConv(4, 4, 8), torch.randn(1, 4, 5, 5), torch.randn(1, 8)
    before = layer(x, style)
    assert not layer.noise.weight.requires_grad
    with torch.no_grad():
        layer.noise.weight += 100
    assert torch.equal(layer(x, style), before)


def test_mixed_precision_gives_about_the_same() -> None:
    layer, x, style = StyledConv(16, 16, 32, is_doubled=True), torch.randn(2, 16, 8, 8), torch.randn(2, 32)
    exact = layer(x, style)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x, style)
    assert (rough.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_what_a_style_does_to_the_channels_is_not_rounded_in_mixed_precision() -> None:
    """A 1x1 convolution that passes one channel of ones on: its output is the scale of that channel over its norm."""
    conv = ModulatedConv2d(1, 1, 1, 8, is_demodulated=False)
    with torch.no_grad():
        conv.weight.fill_(1 / conv.scale)
    ones, style = torch.ones(4, 1, 1, 1, dtype=torch.float64).float(), torch.randn(4, 8)
    seen: list[torch.Tensor] = []
    conv._convolve = lambda x, weight: seen.append(x) or x  # pyright: ignore[reportAttributeAccessIssue]
    with torch.autocast("cpu", torch.bfloat16):
        conv(ones, style)
    expected = style @ conv.modulation.weight.T * conv.modulation.scale + conv.modulation.bias
    torch.testing.assert_close(seen[0].flatten(), expected.flatten(), atol=1e-6, rtol=1e-6)
