"""VGG-19 features and the perceptual loss."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from models.nn.perceptual import PerceptualLoss, VggFeatures, downscale, load_vgg, random_vgg
from storage import weights
from storage.errors import WeightsError

# torchvision's vgg19().features up to relu5_1: index -> channels of the convolutions, 'M' poolings between them.
CONVOLUTIONS = {
    0: 64,
    2: 64,
    5: 128,
    7: 128,
    10: 256,
    12: 256,
    14: 256,
    16: 256,
    19: 512,
    21: 512,
    23: 512,
    25: 512,
    28: 512,
}
POOLINGS = (4, 9, 18, 27)


def test_the_layers_and_their_names_are_torchvisions() -> None:
    with torch.device("meta"):
        vgg = VggFeatures()
    state = vgg.state_dict()
    assert set(state) == {f"features.{index}.{part}" for index in CONVOLUTIONS for part in ("weight", "bias")}
    num_in = 3
    for index, channels in CONVOLUTIONS.items():
        assert state[f"features.{index}.weight"].shape == (channels, num_in, 3, 3)
        num_in = channels
    assert tuple(i for i, layer in enumerate(vgg.features) if isinstance(layer, nn.MaxPool2d)) == POOLINGS
    assert sum(value.numel() for value in state.values()) == 12_944_960


def test_five_layers_are_read_each_first_behind_a_pooling() -> None:
    with torch.device("meta"):
        found = VggFeatures()(torch.empty(2, 3, 64, 64))
    assert [tuple(x.shape) for x in found] == [
        (2, 64, 64, 64), (2, 128, 32, 32), (2, 256, 16, 16), (2, 512, 8, 8), (2, 512, 4, 4),
    ]  # fmt: skip


def test_features_are_those_of_the_layers_applied_one_by_one_to_normalised_colours() -> None:
    vgg, images = random_vgg(width=1 / 16), torch.rand(1, 3, 32, 32) * 4 - 2
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images.clamp(-1, 1) * 0.5 + 0.5) - mean[:, None, None]) / std[:, None, None]
    wanted = {1: 0, 6: 1, 11: 2, 20: 3, 29: 4}
    found = vgg(images)
    for index, layer in enumerate(vgg.features):
        x = layer(x)
        if index in wanted:
            torch.testing.assert_close(found[wanted[index]], x)


def test_it_is_frozen_and_random_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    first = random_vgg(3, width=1 / 16)
    torch.manual_seed(2)
    second, third = random_vgg(3, width=1 / 16), random_vgg(4, width=1 / 16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.features[0].weight, third.features[0].weight)
    assert not any(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_downscaling_is_a_gaussian_then_every_nth_pixel(factor: int) -> None:
    image = np.random.default_rng(0).normal(size=(40, 48))
    sigma = (factor - 1) / 2
    smooth = ndimage.gaussian_filter(image, sigma, mode="constant", radius=round(4 * sigma))
    out = downscale(torch.tensor(image)[None, None], factor)[0, 0]
    np.testing.assert_allclose(out, smooth[::factor, ::factor], atol=1e-7)


def test_the_loss_is_ten_times_the_mean_difference_per_layer_and_scale() -> None:
    vgg, output, target = random_vgg(width=1 / 16), torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    expected = 0.0
    for factor in (1, 2):
        pairs = zip(vgg(downscale(output, factor)), vgg(downscale(target, factor)), strict=True)
        expected += sum(10 * float((a - b).abs().mean()) for a, b in pairs)
    assert PerceptualLoss(vgg, scales=(1, 2))(output, target).item() == pytest.approx(expected, rel=1e-5)
    assert PerceptualLoss(vgg)(target, target).item() == 0
    # at 32 px the scales 1/4 and 1/8 would leave nothing to pool
    assert PerceptualLoss(vgg)(output, target).item() == pytest.approx(expected, rel=1e-5)


def test_only_the_output_gets_a_gradient() -> None:
    output, target = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    PerceptualLoss(random_vgg(width=1 / 16))(output, target).backward()
    assert output.grad is not None
    assert output.grad.abs().sum() > 0
    assert target.grad is None


def test_weights_come_from_the_listed_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    listing = tmp_path / "weights.toml"
    listing.write_text(weights.LIST.read_text().replace('sha256 = "dcbb9e9d"', 'sha256 = ""'))
    monkeypatch.setattr(weights, "LIST", listing)
    vgg = random_vgg(5)
    torch.save(vgg.state_dict() | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg19-dcbb9e9d.pth")
    loaded = load_vgg()
    assert all(torch.equal(a, b) for a, b in zip(vgg.parameters(), loaded.parameters(), strict=True))
    torch.save({"something": torch.zeros(1)}, tmp_path / "vgg19-dcbb9e9d.pth")
    with pytest.raises(WeightsError, match="not the state dict of torchvision's VGG-19"):
        load_vgg()


def test_missing_weights_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TALKSET_ALLOW_DOWNLOAD", raising=False)
    with pytest.raises(WeightsError, match="vgg19"):
        load_vgg()
