"""MotionVAE: speech to face motion, with a latent for the part that the audio does not determine.

A variational autoencoder whose prior is a coupling flow (the FVAE of PortaSpeech, Ren et al., NeurIPS 2021), in the
form of GeneFace++'s "pitch-aware audio-to-motion transform" (Ye et al., 2023), which EmoGene and RealTalk take over.
Latents have 16 channels at 6.25 Hz, one step for four frames. Every part is convolutional and each step has noise of
its own, so any length can be made, and the motion of the beginning does not change when more audio follows.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.emogene.audio_encoder import NUM_CONDITION, Speech, SpeechCondition
from models.nn.coupling_flow import CouplingFlow
from models.nn.standardiser import Standardiser
from models.nn.wavenet import WaveNet

STRIDE = 4
NUM_LATENTS = 16
NUM_HIDDEN = 256
KERNEL = 5
ENCODER_LAYERS, DECODER_LAYERS = 8, 4


class VaeOutput(NamedTuple):
    """Output of a training step.

    Attributes:
        motion: [B, T, D] standardised.
        divergence: scalar float32, a sample of KL(posterior || prior) per latent number.
    """

    motion: Tensor
    divergence: Tensor


class MotionVAE(nn.Module):
    """Motion [B, T, D] from speech; any T.

    Args:
        audio_scale: statistics of the audio features [A].
        motion_scale: statistics of the motion [D].
    """

    def __init__(self, audio_scale: Standardiser, motion_scale: Standardiser) -> None:
        super().__init__()
        num_motion = len(motion_scale.mean)
        self.motion_scale = motion_scale
        self.condition = SpeechCondition(audio_scale)
        self.condition_down = _halved_twice(NUM_CONDITION, NUM_CONDITION)
        self.encoder_down = _halved_twice(num_motion, NUM_HIDDEN)
        self.encoder = WaveNet(NUM_HIDDEN, KERNEL, ENCODER_LAYERS, NUM_CONDITION)
        self.posterior = nn.Conv1d(NUM_HIDDEN, 2 * NUM_LATENTS, 1)
        self.prior = CouplingFlow(NUM_LATENTS, NUM_CONDITION)
        self.decoder_up = nn.ConvTranspose1d(NUM_LATENTS, NUM_HIDDEN, STRIDE, STRIDE)
        self.decoder = WaveNet(NUM_HIDDEN, KERNEL, DECODER_LAYERS, NUM_CONDITION)
        self.leave = nn.Conv1d(NUM_HIDDEN, num_motion, 1)

    def forward(self, motion: Tensor, valid: Tensor, speech: Speech, noise: Tensor | None = None) -> VaeOutput:
        """Reconstruction from a sample of the posterior.

        Args:
            motion: [B, T, D] in its own units; NaN where missing.
            valid: [B, T] bool; values of motion elsewhere have no influence.
            speech: its audio and controls.
            noise: [B, 16, ceil(T / 4)], see `latent_noise`; None takes the mean of the posterior (and the divergence
                is then no sample of the KL).
        """
        frames = self._framewise(speech)
        known = self.motion_scale(motion).masked_fill(~valid[..., None], 0).mT
        steps = _padded(valid).unflatten(-1, (-1, STRIDE)).any(-1)[:, None]
        coarse, mask = self._stepwise(frames)
        hidden = self.encoder(self.encoder_down(_padded(known)) * mask, coarse, mask)
        mean, log_std = self.posterior(hidden).float().chunk(2, dim=1)
        noise = torch.zeros_like(mean) if noise is None else noise
        latents = (mean + log_std.exp() * noise) * mask
        divergence = sampled_divergence(noise, log_std, self.prior(latents, coarse, mask).float(), steps & (mask > 0))
        return VaeOutput(self._decode(latents, frames), divergence)

    @torch.no_grad()
    def sample(self, speech: Speech, noise: Tensor | None = None) -> Tensor:
        """Motion [B, T, D] in its own units, for speech.

        Args:
            speech: audio and controls.
            noise: [B, 16, ceil(T / 4)], see `latent_noise`, times a temperature (published: 0.2); None is the likeliest
                motion.
        """
        frames = self._framewise(speech)
        coarse, mask = self._stepwise(frames)
        noise = mask.new_zeros(1) if noise is None else noise
        latents = self.prior.inverse((noise * mask).expand(-1, NUM_LATENTS, -1), coarse, mask)
        return self.motion_scale.undo(self._decode(latents, frames))

    def _framewise(self, speech: Speech) -> "_Frames":
        condition = self.condition(speech)
        return _Frames(_padded(condition), _padded(speech.inside)[:, None].to(condition.dtype), condition.shape[-1])

    def _stepwise(self, frames: "_Frames") -> tuple[Tensor, Tensor]:
        """Condition [B, 128, L] and mask [B, 1, L] of the latent steps; one counts when its first frame is inside."""
        mask = frames.mask[:, :, ::STRIDE]
        return self.condition_down(frames.condition) * mask, mask

    def _decode(self, latents: Tensor, frames: "_Frames") -> Tensor:
        """[B, T, D] standardised."""
        hidden = self.decoder(self.decoder_up(latents) * frames.mask, frames.condition, frames.mask)
        return self.leave(hidden).mT[:, : frames.num_frames]


class _Frames(NamedTuple):
    """Condition [B, 128, P] and mask [B, 1, P] at frame rate, P the next multiple of 4, and the true T."""

    condition: Tensor
    mask: Tensor
    num_frames: int


def latent_noise(batch_size: int, num_frames: int, generator: torch.Generator | None = None) -> Tensor:
    """[B, 16, ceil(T / 4)] unit normal noise, on the CPU.

    Drawn step by step: for one clip, the first steps do not depend on how many follow.
    """
    num_steps = -(-num_frames // STRIDE)
    return torch.randn(num_steps, batch_size, NUM_LATENTS, generator=generator).permute(1, 2, 0).contiguous()


def sampled_divergence(noise: Tensor, log_std: Tensor, prior_noise: Tensor, mask: Tensor) -> Tensor:
    """Mean of log q(z) - log p(z), an unbiased sample of KL(q || p) per latent number.

    Args:
        noise: [B, C, L] with z = mean + exp(log_std) * noise, which makes log q independent of the mean.
        log_std: [B, C, L] of q.
        prior_noise: [B, C, L] flow(z); the flow preserves volumes, so p(z) is its unit normal density.
        mask: [B, 1, L] bool, steps that count.
    """
    # the two constants log sqrt(2 pi) cancel
    gap = 0.5 * (prior_noise.square() - noise.square()) - log_std
    kept = torch.where(mask, gap, 0.0)
    return kept.sum() / (mask.sum() * gap.shape[1]).clamp_min(1)


def _halved_twice(num_in: int, num_out: int) -> nn.Conv1d:
    """[B, C, 4 L] -> [B, D, L]."""
    return nn.Conv1d(num_in, num_out, 2 * STRIDE, STRIDE, padding=STRIDE // 2)


def _padded(x: Tensor) -> Tensor:
    """[..., T] with zeros (False) behind its end up to a multiple of 4."""
    return functional.pad(x, (0, -x.shape[-1] % STRIDE))
