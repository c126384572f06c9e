"""SpeechCondition: the condition of the audio-to-motion VAE per video frame: audio, pitch, and three controls.

GeneFace++ (Ye et al., 2023): audio features and coarse pitch go through a convolution stack each, and are concatenated
with the controls. There the controls are constants; here they are measured on the training clips, so that changing
them at inference means something: how wide the eyes are open in each frame (a blink is a dip to -1), and how much the
mouth and the upper face of a clip move (1 = as much as usual).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.nn.audio_frames import AudioFrames
from models.nn.standardiser import Standardiser

NUM_CONDITION = 128
# Entries of the embedding; 1..255 are used.
NUM_ENTRIES = 300
_LOW_HZ, _HIGH_HZ = 50.0, 1100.0
_HIGHEST = 255


class Speech(NamedTuple):
    """Inputs of the motion of B clips of T frames.

    Attributes:
        audio: [B, 2 T, A] float32, mel50 or hubert.
        f0_hz: [B, 2 T] float32, 0 = unvoiced.
        opening: [B, T] float32 of the eyes: 0 as usual, -1 closed.
        amplitudes: [B, 2] float32 of mouth and upper face; 1 as usual.
        inside: [B, T] bool, False behind the end of the clip.
    """

    audio: Tensor
    f0_hz: Tensor
    opening: Tensor
    amplitudes: Tensor
    inside: Tensor

    def with_usual_controls(self) -> "Speech":
        """The same audio with neutral controls."""
        return self._replace(opening=torch.zeros_like(self.opening), amplitudes=torch.ones_like(self.amplitudes))


class SpeechCondition(nn.Module):
    """Speech -> [B, 128, T].

    Args:
        scale: of the audio features [.., A].
    """

    def __init__(self, scale: Standardiser) -> None:
        super().__init__()
        self.scale = scale
        self.audio = AudioFrames(len(scale.mean), NUM_CONDITION)
        self.pitch_table = nn.Embedding(NUM_ENTRIES, NUM_CONDITION)
        self.pitch = AudioFrames(NUM_CONDITION, NUM_CONDITION)
        self.opening = nn.Linear(1, NUM_CONDITION)
        self.mouth = nn.Linear(1, NUM_CONDITION)
        self.upper_face = nn.Linear(1, NUM_CONDITION)
        self.mix = nn.Linear(5 * NUM_CONDITION, NUM_CONDITION)

    def forward(self, speech: Speech) -> Tensor:
        """[B, 128, T], zero behind the end."""
        num_frames = speech.inside.shape[1]
        parts = [
            self.audio(self.scale(speech.audio), speech.inside).mT,
            self.pitch(self.pitch_table(coarse_pitch(speech.f0_hz)), speech.inside).mT,
            self.opening(speech.opening[..., None]),
            self.mouth(speech.amplitudes[:, None, :1]).expand(-1, num_frames, -1),
            self.upper_face(speech.amplitudes[:, None, 1:]).expand(-1, num_frames, -1),
        ]
        return self.mix(torch.cat(parts, dim=-1)).masked_fill(~speech.inside[..., None], 0).mT


def coarse_pitch(f0_hz: Tensor) -> Tensor:
    """Classes 1..255 (int64) of fundamentals in Hz: equal mel steps from 50 to 1100 Hz; unvoiced (0) is 1."""
    low, high = _mel(_LOW_HZ), _mel(_HIGH_HZ)
    steps = (1127 * torch.log1p(f0_hz.float() / 700) - low) * (_HIGHEST - 1) / (high - low) + 1
    return steps.round().clamp(1, _HIGHEST).long()


def _mel(hz: float) -> float:
    return 1127 * math.log1p(hz / 700)
