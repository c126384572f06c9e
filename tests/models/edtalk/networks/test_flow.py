"""Flow fields."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from models.edtalk.networks.flow import ToFlow, corner_grid, warp


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_grid_reaches_from_corner_to_corner_with_x_first() -> None:
    grid = corner_grid(5)
    assert grid[0, 0].tolist() == [-1, -1]
    assert grid[0, 4].tolist() == [1, -1]
    assert grid[4, 0].tolist() == [-1, 1]


def test_no_offset_is_the_published_zoom_and_not_the_identity() -> None:
    """Pixel k of S reads place (k S / (S - 1)) - 1/2, bilinear, with zeros outside: here by scipy."""
    side = 8
    image = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    out = warp(torch.tensor(image)[None, None], torch.zeros(1, 2, side, side), corner_grid(side))[0, 0]
    at = np.arange(side) * side / (side - 1) - 0.5
    padded = np.pad(image, 1)
    expected = ndimage.map_coordinates(padded, np.meshgrid(at + 1, at + 1, indexing="ij"), order=1)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert not np.allclose(out, image, atol=0.1)
    # the outer half of the border pixels lies outside
    np.testing.assert_allclose(out[0, 0], image[0, 0] / 4, atol=1e-6)


def test_offsets_move_the_place_that_is_read() -> None:
    """An offset of 2/S in x reads one pixel further right."""
    side, image = 16, torch.rand(1, 2, 16, 16)
    offsets = torch.zeros(1, 2, side, side)
    offsets[:, 0] = 2 / side
    still, moved = (warp(image, shift, corner_grid(side)) for shift in (torch.zeros_like(offsets), offsets))
    shifted = warp(functional.pad(image, (0, 1))[..., 1:], torch.zeros_like(offsets), corner_grid(side))
    torch.testing.assert_close(moved[..., 1:-1], shifted[..., 1:-1], atol=1e-5, rtol=0)
    assert not torch.allclose(still, moved)


def test_a_level_mixes_warped_features_with_the_generators_by_the_mask() -> None:
    layer = ToFlow(4, 8, 16)
    x, style, features = torch.randn(2, 4, 16, 16), torch.randn(2, 8), torch.randn(2, 4, 16, 16)
    coarser = torch.randn(2, 3, 8, 8)
    warped, mixed, field = layer(x, style, features, coarser)
    # the field: 1x1 convolution with scaled inputs, no demodulation, plus bias, plus the coarser one
    scales = style @ layer.conv.modulation.weight.T / 8**0.5 + layer.conv.modulation.bias
    raw = torch.einsum("oc,bchw,bc->bohw", layer.conv.weight[0, :, :, 0, 0] / 2, x, scales)
    torch.testing.assert_close(field, raw + layer.upsample(coarser), atol=1e-5, rtol=1e-4)
    places = corner_grid(16) + torch.tanh(field[:, :2]).permute(0, 2, 3, 1)
    sampled = functional.grid_sample(features, places, mode="bilinear", padding_mode="zeros", align_corners=False)
    mask = torch.sigmoid(field[:, 2:])
    torch.testing.assert_close(warped, sampled * mask)
    torch.testing.assert_close(mixed, sampled * mask + x * (1 - mask))


def test_the_first_level_has_nothing_to_add() -> None:
    layer = ToFlow(4, 8, 8)
    x, style, features = torch.randn(1, 4, 8, 8), torch.randn(1, 8), torch.randn(1, 4, 8, 8)
    field = layer(x, style, features, None)[2]
    torch.testing.assert_close(layer(x, style, features, torch.zeros(1, 3, 4, 4))[2], field)


def test_places_stay_exact_in_mixed_precision() -> None:
    layer = ToFlow(4, 8, 64)
    x, style, features = torch.randn(1, 4, 64, 64), torch.randn(1, 8), torch.randn(1, 4, 64, 64)
    for coarser in (None, torch.randn(1, 3, 32, 32)):
        with torch.autocast("cpu", torch.bfloat16):
            field = layer(x, style, features, coarser)[2]
        assert field.dtype == torch.float32
        torch.testing.assert_close(field, layer(x, style, features, coarser)[2], atol=1e-6, rtol=1e-5)
