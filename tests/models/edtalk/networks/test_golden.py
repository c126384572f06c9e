"""Sizes, names and cost of the networks against what is known of the published ones."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.generator import IdentityFeatures
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.syncnet import SyncNet
from tests.models.edtalk import published


def mouth_pose() -> EDTalk:
    return EDTalk(has_expression=False)


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (EDTalk, 64_228_397),
        (mouth_pose, 46_173_091),
        (Lia, 45_116_317),
        (Audio2Lip, 2_822_932),
        (Discriminator, 24_001_089),
        (SyncNet, 16_435_072),
    ],
)
def test_the_number_of_parameters_is_the_published_one(build: Callable[[], nn.Module], expected: int) -> None:
    assert num_parameters(on_meta(build)) == expected


@pytest.mark.parametrize(
    ("build", "expected", "count"),
    [
        (EDTalk, published.full(), 298),
        (mouth_pose, published.mouth_pose(), 195),
        (Lia, published.lia(), 185),
        (Audio2Lip, published.audio2lip(), 93),
    ],
)
def test_state_dicts_have_the_published_names_and_shapes(build, expected: published.Shapes, count: int) -> None:
    found = {name: tuple(value.shape) for name, value in on_meta(build).state_dict().items()}
    assert found == expected
    assert len(found) == count


def test_thirty_tensors_are_blur_kernels_and_the_smaller_model_is_a_part_of_the_larger() -> None:
    large, small = (set(on_meta(build).state_dict()) for build in (EDTalk, mouth_pose))
    assert sum(name.endswith(".kernel") for name in large) == 30
    assert small < large


def test_what_has_no_effect_is_frozen_and_the_rest_is_not() -> None:
    with torch.device("meta"):
        model, audio = EDTalk(), Audio2Lip()
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    unused = [name for name in frozen if "fineadainresblock" in name]
    assert sum(frozen[name] for name in unused) == pytest.approx(8.76e6, rel=1e-3)
    assert all(".conv1." in name or ".norm1." in name for name in unused)
    assert set(frozen) - set(unused) == {
        *(f"dec.to_rgb1.{part}" for part in ("bias", "conv.0.weight", "conv.1.bias")),
        "dec.conv1.noise.weight",
        *(f"dec.convs.{number}.noise.weight" for number in range(12)),
    }
    assert sum(p.numel() for p in audio.parameters() if p.requires_grad) == 10_260


def giga_macs(compute: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute()
    return counter.get_total_flops() / 2e9


def test_multiplications_per_frame_are_those_of_the_published_networks() -> None:
    full, small = on_meta(EDTalk), on_meta(mouth_pose)
    assert isinstance(full, EDTalk)
    assert isinstance(small, EDTalk)
    with torch.device("meta"):
        image, latent = torch.empty(1, 3, 256, 256), torch.empty(1, 512)
        directions = torch.empty(512, 36)
    reference = IdentityFeatures(*small.enc(image))
    assert giga_macs(lambda: full.encode(image)) == pytest.approx(15.6, abs=0.05)
    assert giga_macs(lambda: small.dec(reference, latent)) == pytest.approx(15.1, abs=0.05)
    # of the expression blocks' 20.8 per frame half is dead, and the other half is done once per reference
    assert giga_macs(lambda: full.encode_identity(image)) == pytest.approx(15.6 + 10.4, abs=0.05)
    prepared, codes = full.encode_identity(image), full.codes(latent)
    assert giga_macs(lambda: full.render(prepared, codes, directions)) == pytest.approx(15.1, abs=0.05)


def test_the_encoder_gives_its_features_from_coarse_to_fine() -> None:
    model = on_meta(mouth_pose)
    assert isinstance(model, EDTalk)
    with torch.device("meta"):
        latent, features = model.enc(torch.empty(2, 3, 256, 256))
    assert latent.shape == (2, 512)
    expected = [(2, published.CHANNELS[side], side, side) for side in published.SIDES_PX]
    assert [tuple(feature.shape) for feature in features] == expected
    with torch.device("meta"):
        assert model.dec(IdentityFeatures(latent, features), latent).shape == (2, 3, 256, 256)
