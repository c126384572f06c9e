"""Emotion residual: the difference between emotional and neutral face motion, for a label and an intensity.

TemporalResidual, the default, takes the whole clip: motion, audio, label, intensity; its attention runs over time.
ResAttResidual is the published network of RealTalk (arXiv 2508.12163) with its 1,164,620 parameters: each frame alone,
so its attention is over a sequence of one and weighs nothing; kept to load and to compare.

Both map motion standardised by one scale to a residual standardised by another, whose zero is no residual.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data.landmark_motion import NUM_COORDINATES
from models.nn.audio_frames import AudioFrames
from models.nn.standardiser import Standardiser
from storage.emotions import EMOTIONS

NUM_HIDDEN = 256
NUM_HEADS = 4
NUM_FEEDFORWARD = 1024
NUM_LABEL = 16
# Frames to either side that attention distinguishes; everything further away is one distance.
REACH_FRAMES = 32


class NeutralSpeech(NamedTuple):
    """Neutral motion of B clips of T frames, and the emotion to add.

    Attributes:
        motion: [B, T, 204] offsets of lm3d from the subject's neutral rest shape, model units; NaN where missing.
        valid: [B, T] bool; values of motion elsewhere have no influence.
        audio: [B, 2 T, A] features of the audio.
        inside: [B, T] bool, False behind the end of the clip.
        emotion: [B] int64, 0..7.
        intensity: [B] float32, 0 not at all .. 1 as strong as level 3 of MEAD.
    """

    motion: Tensor
    valid: Tensor
    audio: Tensor
    inside: Tensor
    emotion: Tensor
    intensity: Tensor


class Scales(NamedTuple):
    """Statistics of the training pairs: audio features [A], motion [204] and residual [204] (mean 0)."""

    audio: Standardiser
    motion: Standardiser
    residual: Standardiser


class TemporalResidual(nn.Module):
    """Standardised residual [B, T, 204] of NeutralSpeech; exactly zero at intensity 0.

    Args:
        scales: see Scales.
        num_layers: blocks of attention and feed-forward.
    """

    def __init__(self, scales: Scales, num_layers: int = 4) -> None:
        super().__init__()
        self.audio_scale, self.motion_scale, self.residual_scale = scales
        self.motion = nn.Linear(NUM_COORDINATES, NUM_HIDDEN)
        self.missing = nn.Parameter(torch.zeros(NUM_HIDDEN))
        self.audio = AudioFrames(len(scales.audio.mean), NUM_HIDDEN)
        self.emotion = nn.Embedding(len(EMOTIONS), NUM_HIDDEN)
        self.intensity = nn.Linear(1, NUM_HIDDEN)
        self.blocks = nn.ModuleList(TimeBlock() for _ in range(num_layers))
        self.norm = nn.LayerNorm(NUM_HIDDEN)
        self.leave = nn.Linear(NUM_HIDDEN, NUM_COORDINATES)

    def forward(self, speech: NeutralSpeech) -> Tensor:
        """[B, T, 204] standardised."""
        frames = self.audio(self.audio_scale(speech.audio), speech.inside).mT
        known = self.motion_scale(speech.motion).masked_fill(~speech.valid[..., None], 0)
        frames = frames + torch.where(speech.valid[..., None], self.motion(known), self.missing)
        frames = frames + (self.emotion(speech.emotion) + self.intensity(speech.intensity[:, None]))[:, None]
        for block in self.blocks:
            frames = block(frames, speech.inside)
        return self.leave(self.norm(frames)) * speech.intensity[:, None, None]


class TimeBlock(nn.Module):
    """Attention over the frames of a clip and a feed-forward layer, both residual, normalised before (pre-LN).

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017; position enters as a learned bias by signed distance
    (Raffel et al., T5, JMLR 2020), so clips of any length can be read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(NUM_HIDDEN)
        self.query_key_value = nn.Linear(NUM_HIDDEN, 3 * NUM_HIDDEN)
        self.distance = nn.Embedding(2 * REACH_FRAMES + 1, NUM_HEADS)
        self.mix = nn.Linear(NUM_HIDDEN, NUM_HIDDEN)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(NUM_HIDDEN),
            nn.Linear(NUM_HIDDEN, NUM_FEEDFORWARD),
            nn.GELU(),
            nn.Linear(NUM_FEEDFORWARD, NUM_HIDDEN),
        )

    def forward(self, frames: Tensor, inside: Tensor) -> Tensor:
        """[B, T, 256] from frames [B, T, 256]; none attends to those that are not inside [B, T]."""
        query, key, value = (
            part.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)
            for part in self.query_key_value(self.norm(frames)).chunk(3, dim=-1)
        )
        bias = self._bias(frames.shape[1]).to(query.dtype).masked_fill(~inside[:, None, None], float("-inf"))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        frames = frames + self.mix(attended.transpose(1, 2).flatten(2))
        return frames + self.feedforward(frames)

    def _bias(self, num_frames: int) -> Tensor:
        """[1, 4, T, T] by head and distance."""
        places = torch.arange(num_frames, device=self.distance.weight.device)
        distance = (places - places[:, None]).clamp(-REACH_FRAMES, REACH_FRAMES) + REACH_FRAMES
        return self.distance(distance).permute(2, 0, 1)[None]


class ResAttResidual(nn.Module):
    """Standardised residual [B, T, 204] of NeutralSpeech by the published network: no audio, no time, no intensity.

    The release adds `delta` times its output; here that factor is the caller's too.
    """

    def __init__(self, scales: Scales) -> None:
        super().__init__()
        self.motion_scale, self.residual_scale = scales.motion, scales.residual
        self.emotion = nn.Embedding(len(EMOTIONS), NUM_LABEL)
        self.enter = nn.Sequential(
            nn.Linear(NUM_COORDINATES + NUM_LABEL, NUM_HIDDEN), nn.BatchNorm1d(NUM_HIDDEN), nn.ReLU()
        )
        self.residuals = nn.Sequential(ResidualBlock(), ResidualBlock())
        self.attention = nn.TransformerEncoderLayer(
            NUM_HIDDEN, NUM_HEADS, NUM_FEEDFORWARD, dropout=0.0, batch_first=True
        )
        self.leave = nn.Linear(NUM_HIDDEN, NUM_COORDINATES)

    def forward(self, speech: NeutralSpeech) -> Tensor:
        """[B, T, 204]; zero in frames that are not valid, which the statistics of batch norm leave out, too."""
        labels = self.emotion(speech.emotion)[:, None].expand(-1, speech.motion.shape[1], -1)
        frames = torch.cat([self.motion_scale(speech.motion), labels], dim=-1)[speech.valid]
        output = frames.new_zeros(*speech.valid.shape, NUM_COORDINATES)
        if self.training and len(frames) < 2:  # too few for batch norm
            return output + 0 * self.leave.bias
        hidden = self.residuals(self.enter(frames))
        offsets = self.leave(self.attention(hidden[:, None])[:, 0])
        return output.masked_scatter(speech.valid[..., None], offsets.to(output.dtype))


class ResidualBlock(nn.Module):
    """Two linear layers with batch norm beside the identity; ReLU between and behind. Frames are [n, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(NUM_HIDDEN, NUM_HIDDEN),
            nn.BatchNorm1d(NUM_HIDDEN),
            nn.ReLU(),
            nn.Linear(NUM_HIDDEN, NUM_HIDDEN),
            nn.BatchNorm1d(NUM_HIDDEN),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """[n, 256], n >= 2 in training."""
        return functional.relu(frames + self.body(frames))
