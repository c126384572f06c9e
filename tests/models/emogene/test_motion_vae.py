"""The VAE: published size, any length, masks, the divergence against its closed form, and independence of length."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from models.emogene.audio_encoder import Speech
from models.emogene.motion_vae import MotionVAE, latent_noise, sampled_divergence
from models.nn.standardiser import Standardiser

NUM_MOTION, NUM_AUDIO = 12, 80


def scale(num_channels: int, mean: float = 0.0, std: float = 1.0) -> Standardiser:
    return Standardiser(torch.full((num_channels,), mean), torch.full((num_channels,), std))


@pytest.fixture(scope="module")
def vae() -> MotionVAE:
    torch.manual_seed(0)
    model = MotionVAE(scale(NUM_AUDIO), scale(NUM_MOTION, mean=2.0, std=3.0)).eval()
    for name, weight in model.prior.named_parameters():
        if "leave" in name:
            nn.init.normal_(weight, std=0.05)
    return model


def speech(num_frames: int, batch_size: int = 2, seed: int = 1) -> Speech:
    draw = torch.Generator().manual_seed(seed)
    return Speech(
        audio=torch.randn(batch_size, 2 * num_frames, NUM_AUDIO, generator=draw),
        f0_hz=torch.rand(batch_size, 2 * num_frames, generator=draw) * 300,
        opening=torch.randn(batch_size, num_frames, generator=draw) * 0.1,
        amplitudes=torch.rand(batch_size, 2, generator=draw) + 0.5,
        inside=torch.ones(batch_size, num_frames, dtype=torch.bool),
    )


def test_with_hubert_and_64_numbers_out_it_has_the_published_size() -> None:
    num_weights = sum(weight.numel() for weight in MotionVAE(scale(1024), scale(64)).parameters())
    assert num_weights == 11_881_344
    assert round(num_weights / 1e6, 2) == 11.88


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 30, 31])
def test_2n_rows_of_sound_make_n_frames(vae: MotionVAE, num_frames: int) -> None:
    sound, noise = speech(num_frames), latent_noise(2, num_frames)
    assert noise.shape == (2, 16, (num_frames + 3) // 4)
    valid = torch.ones(2, num_frames, dtype=torch.bool)
    motion = torch.randn(2, num_frames, NUM_MOTION)
    assert vae(motion, valid, sound, noise).motion.shape == motion.shape
    assert vae.sample(sound, noise).shape == motion.shape


def test_the_divergence_is_the_closed_form_between_normals() -> None:
    torch.manual_seed(0)
    mean, log_std = torch.randn(1, 16, 5), torch.randn(1, 16, 5) * 0.5
    mask = torch.tensor([True, True, False, True, False])[None, None]
    noise = torch.randn(20_000, 16, 5)
    # with a flow that is the identity, the prior is the unit normal
    sampled = sampled_divergence(
        noise, log_std.expand_as(noise), mean + log_std.exp() * noise, mask.expand(20_000, 1, 5)
    )
    exact = kl_divergence(Normal(mean, log_std.exp()), Normal(0, 1))[:, :, mask[0, 0]].mean()
    assert sampled.item() == pytest.approx(exact.item(), rel=0.01)


def test_the_divergence_is_log_q_minus_log_p() -> None:
    torch.manual_seed(1)
    mean, log_std, noise = torch.randn(3, 2, 16, 4)
    latents = mean + log_std.exp() * noise
    flowed = latents.flip(1) + 0.3  # volumes are preserved
    expected = Normal(mean, log_std.exp()).log_prob(latents) - Normal(0, 1).log_prob(flowed)
    mask = torch.ones(2, 1, 4, dtype=torch.bool)
    torch.testing.assert_close(sampled_divergence(noise, log_std, flowed, mask), expected.mean())


def test_motion_under_the_mask_changes_nothing(vae: MotionVAE) -> None:
    sound, noise, motion = speech(13), latent_noise(2, 13), torch.randn(2, 13, NUM_MOTION)
    valid = torch.ones(2, 13, dtype=torch.bool)
    valid[0, 4:9] = valid[1, 0] = False
    plain = vae(motion, valid, sound, noise)
    for other in (torch.nan, 1e6):
        changed = vae(motion.masked_fill(~valid[..., None], other), valid, sound, noise)
        assert torch.equal(changed.motion, plain.motion)
        assert torch.equal(changed.divergence, plain.divergence)
    moved = vae(motion.masked_fill(valid[..., None], 5.0), valid, sound, noise)
    assert not torch.allclose(moved.motion, plain.motion)


def test_what_is_behind_the_end_changes_nothing(vae: MotionVAE) -> None:
    sound, noise = speech(24), latent_noise(2, 24)
    motion, inside = torch.randn(2, 24, NUM_MOTION), torch.arange(24).expand(2, -1) < 10
    sound = sound._replace(inside=inside)
    rows = inside.repeat_interleave(2, dim=1)
    plain = vae(motion, inside, sound, noise)
    other = sound._replace(
        audio=sound.audio.masked_fill(~rows[..., None], 9.0),
        f0_hz=sound.f0_hz.masked_fill(~rows, 200.0),
        opening=sound.opening.masked_fill(~inside, -1.0),
    )
    changed = vae(motion, inside, other, noise)
    torch.testing.assert_close(changed.motion[:, :10], plain.motion[:, :10])
    torch.testing.assert_close(changed.divergence, plain.divergence)
    # and a batch padded less far gives the same
    short = Speech(sound.audio[:, :24], sound.f0_hz[:, :24], sound.opening[:, :12], sound.amplitudes, inside[:, :12])
    shorter = vae(motion[:, :12], inside[:, :12], short, noise[:, :, :3])
    torch.testing.assert_close(shorter.motion[:, :10], plain.motion[:, :10], atol=1e-5, rtol=1e-4)


def test_a_longer_sound_begins_like_its_beginning(vae: MotionVAE) -> None:
    whole, first = speech(240, batch_size=1), 160
    part = Speech(
        whole.audio[:, : 2 * first],
        whole.f0_hz[:, : 2 * first],
        whole.opening[:, :first],
        whole.amplitudes,
        whole.inside[:, :first],
    )
    noises = [latent_noise(1, count, torch.Generator().manual_seed(3)) for count in (240, first)]
    assert torch.equal(noises[0][:, :, : first // 4], noises[1])
    long, short = vae.sample(whole, noises[0]), vae.sample(part, noises[1])
    # the end is heard 26 latent steps ahead at most
    torch.testing.assert_close(long[:, : first - 104], short[:, : first - 104], atol=1e-4, rtol=1e-4)


def test_sound_pitch_controls_and_noise_all_decide_the_motion(vae: MotionVAE) -> None:
    sound, noise = speech(16), latent_noise(2, 16)
    plain = vae.sample(sound, noise)
    assert torch.equal(vae.sample(sound), vae.sample(sound, noise * 0))
    for other in (
        vae.sample(sound, noise * 0.2),
        vae.sample(sound._replace(audio=sound.audio + 1), noise),
        vae.sample(sound._replace(f0_hz=sound.f0_hz + 100), noise),
        vae.sample(sound._replace(opening=sound.opening - 1), noise),
        vae.sample(sound._replace(amplitudes=sound.amplitudes * torch.tensor([1.0, 2.0])), noise),
        vae.sample(sound._replace(amplitudes=sound.amplitudes * torch.tensor([2.0, 1.0])), noise),
    ):
        assert not torch.allclose(other, plain)
    usual = sound.with_usual_controls()
    assert not usual.opening.any()
    assert (usual.amplitudes == 1).all()


def test_samples_are_in_the_units_of_the_motion(vae: MotionVAE) -> None:
    sound = speech(400)
    standardised = (vae.sample(sound) - 2) / 3
    original = vae.motion_scale
    vae.motion_scale = scale(NUM_MOTION)
    torch.testing.assert_close(vae.sample(sound), standardised, atol=1e-5, rtol=1e-4)
    vae.motion_scale = original
