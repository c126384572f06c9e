"""ExpressionPredictor: expression codes from an emotion with its intensity, from audio, or from both.

The released system has weights for eight emotions, made by hand, and nothing that makes more. Here each emotion has a
direction in the space of the codes: the least-squares difference of its clips from neutral ones. Intensity scales it;
emotions can be mixed and change over time. The contribution of the audio is added, or stands alone where the emotion is
unknown.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.edtalk.networks.speech_encoder import SpeechEncoder, SpeechSize
from models.nn.standardiser import Standardiser
from models.nn.stylegan import no_autocast
from storage.emotions import EMOTIONS

NUM_EMOTIONS = len(EMOTIONS)
NEUTRAL = EMOTIONS.index("neutral")
HIGHEST_LEVEL = 3


class Expressions(NamedTuple):
    """[B, T, 10] expression codes each: from the emotion alone, from audio alone, and from both."""

    from_emotion: Tensor
    from_audio: Tensor
    both: Tensor


class EmotionTable(NamedTuple):
    """The neutral expression and the change of it by each emotion.

    Attributes:
        neutral: [10] float32 codes.
        directions: [8, 10] float32, added by each emotion at full intensity; zero for neutral and for emotions without
            a clip.
        num_clips: [8] int64 number of clips of each emotion.
    """

    neutral: Tensor
    directions: Tensor
    num_clips: Tensor


class ExpressionPredictor(nn.Module):
    """Emotions and audio to expression codes; only the part that depends on audio is trained.

    Args:
        scale: statistics of the expression codes [10].
        size: sizes of the audio encoder.
        table: codes of the emotions.
    """

    neutral: Tensor
    directions: Tensor
    num_clips: Tensor

    def __init__(self, scale: Standardiser, size: SpeechSize, table: EmotionTable) -> None:
        super().__init__()
        for name, value in table._asdict().items():
            self.register_buffer(name, value.clone())
        self.scale = scale
        self.speech = SpeechEncoder(size)
        # 'mood' is the name in state dicts
        self.mood = nn.Linear(NUM_EMOTIONS + 1, size.width)
        self.mix = nn.Linear(size.width, size.width)
        self.leave = nn.Linear(size.width, len(scale.mean))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> "ExpressionPredictor":
        """The network of a state dict, in eval mode."""
        table = EmotionTable(*(state[name] for name in EmotionTable._fields))
        network = ExpressionPredictor(
            Standardiser(state["scale.mean"], state["scale.std"]), SpeechSize.of(state), table
        )
        network.load_state_dict(dict(state))
        return network.eval()

    def forward(self, emotions: Tensor, windows: Tensor, inside: Tensor | None = None) -> Expressions:
        """All three at once, for training.

        Args:
            emotions: [B, T, 8] emotion vectors, see `emotion_vector`.
            windows: [B, T, 1, 80, 16] mel windows (field `mel_edtalk`).
            inside: [B, T] bool, False behind the end of a clip; None is True everywhere.
        """
        speech = self.speech(windows, inside)
        return Expressions(self.from_emotion(emotions), self.from_audio(speech), self.both(emotions, speech))

    def from_emotion(self, emotions: Tensor) -> Tensor:
        """[.., 10] codes of emotion vectors [.., 8] alone."""
        with no_autocast(emotions):
            return self.neutral + emotions.float() @ self.directions

    def from_audio(self, speech: Tensor) -> Tensor:
        """[B, T, 10] codes of encoded audio [B, T, W] (from `speech`) alone."""
        return self.scale.undo(self._residual(speech.new_zeros(NUM_EMOTIONS), 1.0, speech))

    def both(self, emotions: Tensor, speech: Tensor) -> Tensor:
        """[B, T, 10] codes of emotion vectors [B, T, 8] and encoded audio [B, T, W]."""
        return self.from_emotion(emotions) + self._residual(emotions, 0.0, speech).float() * self.scale.std

    def _residual(self, emotions: Tensor, unknown: float, speech: Tensor) -> Tensor:
        """[B, T, 10] standardised contribution of the audio, given an emotion or (`unknown` 1) none."""
        flag = torch.full_like(emotions[..., :1], unknown)
        hidden = self.mix(speech + self.mood(torch.cat([emotions, flag], dim=-1)))
        return self.leave(functional.gelu(hidden))


def emotion_vector(emotion: Tensor, intensity: Tensor) -> Tensor:
    """[.., 8] emotion vectors: the intensity at the emotion's index; all zero is neutral. Vectors can be added.

    Args:
        emotion: [..] int64 0..7, -1 unknown.
        intensity: [..] 0 is neutral, 1 the strongest of the training data; more exaggerates.
    """
    chosen = functional.one_hot(emotion.clamp_min(0), NUM_EMOTIONS) * intensity[..., None].float()
    has_emotion = (emotion >= 0) & (emotion != NEUTRAL)
    return torch.where(has_emotion[..., None], chosen, 0.0)


def intensity_of(level: Tensor) -> Tensor:
    """Intensities of MEAD's levels 1..3: 1/3, 2/3 and 1; an unknown level (-1) is 1."""
    known = level.clamp(1, HIGHEST_LEVEL) / HIGHEST_LEVEL
    return torch.where(level < 0, 1.0, known)


def emotion_table(codes: Sequence[NDArray[np.float32]], emotion: Tensor, level: Tensor) -> EmotionTable:
    """The least-squares fit of neutral codes and directions to all frames of clips with a known emotion.

    Where several fit equally well (no clip is neutral, say), the one of the smallest norm; without any such clip the
    mean of all.

    Args:
        codes: [N, 10] codes of each clip, NaN in frames that do not count; every clip has a frame that counts.
        emotion: [clips] int64 0..7, -1 unknown.
        level: [clips] int64, see `intensity_of`.
    """
    known = emotion >= 0
    num_clips = torch.bincount(emotion[known], minlength=NUM_EMOTIONS)
    codes = [own[np.isfinite(own).all(axis=1)] for own in codes]
    centre = np.concatenate(codes).mean(axis=0, dtype=np.float64)
    # the emotion is the same in all frames of a clip: the mean codes, weighted by the length, suffice
    weight = np.sqrt([len(own) for own in codes])[known.numpy(), None]
    vectors = emotion_vector(emotion[known], intensity_of(level[known])).double().numpy()
    design = np.concatenate([np.ones_like(weight), vectors], axis=1) * weight
    means = np.array([own.mean(axis=0, dtype=np.float64) - centre for own in codes])[known.numpy()]
    solution = np.linalg.lstsq(design, means * weight, rcond=None)[0]
    seen = vectors.max(axis=0, initial=0)[:, None] > 0
    neutral, directions = centre + solution[0], np.where(seen, solution[1:], 0)
    return EmotionTable(torch.from_numpy(neutral).float(), torch.from_numpy(directions).float(), num_clips)
