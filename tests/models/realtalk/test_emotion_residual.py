"""The residual networks: published size, what they depend on, masks, zero intensity."""

import pytest
import torch

from models.nn.standardiser import Standardiser
from models.realtalk.emotion_residual import NeutralSpeech, ResAttResidual, Scales, TemporalResidual


def scale(num_channels: int) -> Standardiser:
    return Standardiser(torch.zeros(num_channels), torch.ones(num_channels))


SCALES = Scales(scale(80), scale(204), scale(204))


def speech(num_frames: int, batch_size: int = 2) -> NeutralSpeech:
    draw = torch.Generator().manual_seed(1)
    return NeutralSpeech(
        motion=torch.randn(batch_size, num_frames, 204, generator=draw),
        valid=torch.ones(batch_size, num_frames, dtype=torch.bool),
        audio=torch.randn(batch_size, 2 * num_frames, 80, generator=draw),
        inside=torch.ones(batch_size, num_frames, dtype=torch.bool),
        emotion=torch.arange(batch_size),
        intensity=torch.full((batch_size,), 0.7),
    )


@pytest.fixture(scope="module")
def temporal() -> TemporalResidual:
    torch.manual_seed(0)
    model = TemporalResidual(SCALES, num_layers=1).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def published() -> ResAttResidual:
    torch.manual_seed(0)
    return ResAttResidual(SCALES).eval()


def test_the_published_network_has_its_published_size() -> None:
    assert sum(weight.numel() for weight in ResAttResidual(SCALES).parameters()) == 1_164_620


def test_the_published_network_sees_one_frame_and_the_label_alone(published: ResAttResidual) -> None:
    plain = speech(9)
    output = published(plain)
    order = torch.randperm(9)
    torch.testing.assert_close(published(plain._replace(motion=plain.motion[:, order])), output[:, order])
    assert torch.equal(published(plain._replace(audio=plain.audio * 0, intensity=plain.intensity * 0)), output)
    assert not torch.allclose(published(plain._replace(emotion=plain.emotion + 3)), output)


def test_the_published_networks_batch_statistics_ignore_missing_frames() -> None:
    torch.manual_seed(0)
    net, plain = ResAttResidual(SCALES).train(), speech(9)
    plain.valid[0, 3:] = False
    outputs = [
        net(plain._replace(motion=plain.motion.masked_fill(~plain.valid[..., None], fill))) for fill in (0.0, 1e4)
    ]
    assert torch.equal(*outputs)
    assert not outputs[0][0, 3:].any()
    nothing = net(plain._replace(valid=plain.valid & False, motion=plain.motion * torch.nan))
    assert not nothing.any()
    nothing.sum().backward()


def test_attention_reaches_all_frames_to_both_sides(temporal: TemporalResidual) -> None:
    plain = speech(90, batch_size=1)
    motion = plain.motion.clone().requires_grad_()
    temporal(plain._replace(motion=motion))[0, 45].sum().backward()
    assert motion.grad is not None
    assert (motion.grad[0].abs().sum(1) > 0).all()


def test_attention_tells_earlier_from_later(temporal: TemporalResidual) -> None:
    plain = speech(21, batch_size=1)
    plain = plain._replace(audio=plain.audio * 0)  # the convolutions know the order of sounds; attention must know too
    turned = temporal(plain._replace(motion=plain.motion.flip(1))).flip(1)
    assert not torch.allclose(turned, temporal(plain), atol=1e-3)


@pytest.mark.parametrize("num_frames", [1, 2, 33, 150])
def test_any_length(temporal: TemporalResidual, num_frames: int) -> None:
    assert temporal(speech(num_frames)).shape == (2, num_frames, 204)


def test_at_intensity_zero_nothing_is_added(temporal: TemporalResidual) -> None:
    plain = speech(12)
    assert temporal(plain).abs().mean() > 0.1
    assert not temporal(plain._replace(intensity=torch.zeros(2))).any()


def test_label_sound_and_intensity_decide(temporal: TemporalResidual) -> None:
    plain = speech(12)
    output = temporal(plain)
    assert not torch.allclose(temporal(plain._replace(emotion=plain.emotion + 3)), output)
    assert not torch.allclose(temporal(plain._replace(audio=plain.audio + 1)), output)
    # more than a factor: strong anger is another face than weak anger twice
    assert not torch.allclose(temporal(plain._replace(intensity=plain.intensity / 2)), output / 2, atol=1e-3)


def test_missing_frames_and_padding_have_no_influence(temporal: TemporalResidual) -> None:
    plain = speech(20)
    plain.valid[0, 4:7] = False
    plain.inside[1, 12:] = plain.valid[1, 12:] = False
    output = temporal(plain)
    rows = plain.inside.repeat_interleave(2, dim=1)[..., None]
    for fill in (torch.nan, 1e4):
        changed = temporal(plain._replace(motion=plain.motion.masked_fill(~plain.valid[..., None], fill)))
        assert torch.equal(changed, output)
    changed = temporal(plain._replace(audio=plain.audio.masked_fill(~rows, 50.0)))
    torch.testing.assert_close(changed[plain.inside], output[plain.inside])
    short = NeutralSpeech(
        *(part[1:, :12] for part in plain[:2]),
        plain.audio[1:, :24],
        plain.inside[1:, :12],
        plain.emotion[1:],
        plain.intensity[1:],
    )
    torch.testing.assert_close(temporal(short)[0], output[1, :12], atol=1e-5, rtol=1e-4)
