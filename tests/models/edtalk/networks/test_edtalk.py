"""The whole models at a small size."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.generator import IdentityFeatures
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import Shape

SMALL = Shape(size_px=32, width=1 / 32, latent_dim=48)


@pytest.fixture(autouse=True)
def _no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32) * 2 - 1


def calm(model: EDTalk) -> EDTalk:
    """With smaller flows than random weights give, so that rounding does not decide which pixel is read."""
    for to_flow in model.dec.to_flows:
        to_flow.conv.weight.mul_(0.05)
    return model.eval()


def some(codes: Codes, index: int) -> Codes:
    assert codes.expression is not None
    return Codes(codes.mouth[index : index + 1], codes.pose[index : index + 1], codes.expression[index : index + 1])


def test_one_reference_encoded_once_is_driven_by_a_batch() -> None:
    model, reference, frames = calm(EDTalk(SMALL)), images(1), images(3)
    encoded, directions = model.encode_identity(reference), model.directions()
    codes = model.codes(model.encode(frames))
    together = model.render(encoded, codes, directions)
    assert together.shape == (3, 3, 32, 32)
    for index in range(3):
        alone = model.render(encoded, some(codes, index), directions)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, model(reference.expand(3, -1, -1, -1), frames)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, model.render(encoded, codes), atol=1e-5, rtol=1e-4)


def test_the_latent_is_the_references_plus_the_weighted_directions() -> None:
    model = EDTalk(SMALL)
    codes, q = model.codes(model.encode(images(2))), model.directions()
    motion, expression = model.motion(codes, q)
    assert codes.expression is not None
    weights = torch.cat([codes.mouth, codes.pose, codes.expression], dim=1)
    torch.testing.assert_close(motion, sum(weights[:, i : i + 1] * q[:, i] for i in range(36)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(expression, codes.expression @ q[:, 26:].T, atol=1e-5, rtol=1e-4)


def test_driving_is_absolute() -> None:
    """The published rule: what the first driving frame shows does not matter, so the reference's own codes are not added."""
    model, reference = EDTalk(SMALL).eval(), images(1)
    encoded = model.encode_identity(reference)
    zero = Codes(torch.zeros(1, 20), torch.zeros(1, 6), torch.zeros(1, 10))
    plain = model.dec(encoded, encoded.latent, torch.zeros(1, 48))
    torch.testing.assert_close(model.render(encoded, zero), plain)
    torch.testing.assert_close(model.render(encoded, Codes(zero.mouth, zero.pose)), plain)


def test_each_part_follows_its_own_codes() -> None:
    model, reference, target = calm(EDTalk(SMALL)), images(2), images(2)
    image, codes = model(reference, target)
    own = model.codes(model.encode(reference))
    for name in ("mouth", "pose", "expression"):
        torch.testing.assert_close(getattr(codes, name), getattr(model.codes(model.encode(target)), name))
        other = model.render(model.encode_identity(reference), replace(codes, **{name: getattr(own, name)}))
        assert not torch.allclose(other, image, atol=1e-5), f"{name} is that of the target"


def test_the_expression_changes_the_image_in_two_ways() -> None:
    model = EDTalk(SMALL).eval()
    encoded, latent = model.encode_identity(images(1)), torch.randn(1, 48)
    calm, angry = (model.dec(encoded, latent, condition) for condition in (torch.zeros(1, 48), torch.randn(1, 48)))
    assert not torch.allclose(calm, angry), "the blocks see the condition though the latent is the same"


def test_dead_parameters_change_no_pixel() -> None:
    model, reference, frames = EDTalk(SMALL).eval(), images(1), images(2)
    before = model.render(model.encode_identity(reference), model.codes(model.encode(frames)))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            nn.init.normal_(parameter, std=10) if parameter.ndim > 1 else nn.init.ones_(parameter)
            assert name.startswith("dec.")
    assert torch.equal(model.render(model.encode_identity(reference), model.codes(model.encode(frames))), before)


def test_colours_come_from_warped_reference_features_only() -> None:
    """With features of zeros nothing is left but the biases, whatever the generator's own features are."""
    model = EDTalk(SMALL, has_expression=False).eval()
    encoded = model.encode_identity(images(1))
    empty = replace(encoded, features=tuple(torch.zeros_like(feature) for feature in encoded.features))
    for to_rgb in model.dec.to_rgbs:
        nn.init.zeros_(to_rgb.bias)
    assert torch.equal(model.dec(empty, torch.randn(2, 48)), torch.zeros(2, 3, 32, 32))


def test_colours_are_summed_over_scales() -> None:
    model = EDTalk(SMALL, has_expression=False).eval()
    encoded = model.encode_identity(images(1))
    empty = replace(encoded, features=tuple(torch.zeros_like(feature) for feature in encoded.features))
    for level, to_rgb in enumerate(model.dec.to_rgbs):
        nn.init.constant_(to_rgb.bias, 0.1 * (level + 1))
    # inside, an upsampled constant stays itself
    centre = model.dec(empty, torch.randn(1, 48))[0, :, 12:20, 12:20]
    torch.testing.assert_close(centre, torch.full_like(centre, 0.1 + 0.2 + 0.3))


def test_the_rgb_residual_changes_nothing_until_it_is_trained() -> None:
    plain, extended = EDTalk(SMALL), EDTalk(SMALL, has_rgb_residual=True)
    missing, unexpected = extended.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(name.startswith("dec.rgb_residuals.") for name in missing)
    reference, frames = images(1), images(2)
    before = plain.render(plain.encode_identity(reference), plain.codes(plain.encode(frames)))
    after = extended.render(extended.encode_identity(reference), extended.codes(extended.encode(frames)))
    assert torch.equal(before, after)
    nn.init.ones_(extended.dec.rgb_residuals[0].conv.weight)
    assert not torch.equal(
        extended.render(extended.encode_identity(reference), extended.codes(extended.encode(frames))), after
    )


def test_the_mouth_pose_model_is_the_full_one_without_expression() -> None:
    full, small = EDTalk(SMALL), EDTalk(SMALL, has_expression=False)
    small.load_state_dict({name: value for name, value in full.state_dict().items() if name in small.state_dict()})
    torch.testing.assert_close(full.directions()[:, :26], small.directions(), atol=1e-5, rtol=0)
    codes = small.codes(small.encode(images(1)))
    assert codes.expression is None
    assert small.motion(codes, small.directions())[1] is None
    # with blocks that add nothing the full model at expression zero is the small one
    for block in full.dec.fineadainresblock:
        for part in (block.norm2.mlp_gamma, block.norm2.mlp_beta):
            nn.init.zeros_(part.weight)
        nn.init.constant_(block.norm2.mlp_gamma.bias, -1)
        nn.init.zeros_(block.norm2.mlp_beta.bias)
    reference = images(1)
    torch.testing.assert_close(
        full.render(full.encode_identity(reference), codes), small.render(small.encode_identity(reference), codes),
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip


def test_lia_adds_one_banks_directions_to_the_reference() -> None:
    model, reference, driving = Lia(SMALL).eval(), images(2), images(2)
    latent, features = model.enc(reference)
    weights = model.enc.fc(model.enc(driving)[0])
    assert weights.shape == (2, 20)
    out = model(reference, driving)
    motion = weights @ torch.linalg.qr(model.dec.direction.weight + 1e-8)[0].T
    assert out.shape == (2, 3, 32, 32)
    torch.testing.assert_close(out, model.dec(IdentityFeatures(latent, features), latent + motion))


def test_mixed_precision_renders_about_the_same_in_float32() -> None:
    model, reference, frames = calm(EDTalk(SMALL)), images(2), images(2)
    exact = model(reference, frames)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(reference, frames)[0]
    assert rough.dtype == torch.float32
    assert functional.l1_loss(rough, exact) < 0.05 * exact.std()


def test_codes_and_motion_are_not_rounded_in_mixed_precision() -> None:
    model, latent = calm(EDTalk(SMALL)), torch.randn(3, SMALL.latent_dim)
    exact, directions = model.codes(latent), model.directions()
    with torch.autocast("cpu", torch.bfloat16):
        codes, again = model.codes(latent), model.directions()
        motion, expression = model.motion(codes, again)
    for name in ("mouth", "pose", "expression"):
        torch.testing.assert_close(getattr(codes, name), getattr(exact, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, directions)
    expected = torch.cat([exact.mouth, exact.pose, exact.expression], dim=1) @ directions.T
    torch.testing.assert_close(motion, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(expression, exact.expression @ directions[:, 26:].T, atol=1e-5, rtol=1e-5)


def test_every_trained_parameter_gets_a_gradient() -> None:
    with torch.enable_grad():
        model = EDTalk(SMALL, has_rgb_residual=True)
        out, _ = model(images(2), images(2))
        out.square().mean().backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
