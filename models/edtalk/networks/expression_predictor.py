"""ExpressionPredictor: expression codes from an emotion with its intensity, from sound, or from both.

The released system has weights for eight emotions, made by hand, and nothing that makes more. Here each emotion has a
direction in the space of the codes: what its clips differ by from neutral ones, least squares. Intensity scales it, and
emotions can be mixed and change over time. What sound says of the expression is added, or, with the emotion unknown,
stands alone.
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
    """[B, T, 10] expression codes, made from the emotion alone, from sound alone, and from both."""

    felt: Tensor
    heard: Tensor
    both: Tensor


class MoodTable(NamedTuple):
    """What emotions look like.

    Attributes:
        neutral: [10] float32 codes.
        directions: [8, 10] float32, what each emotion adds at full intensity; zero for neutral and those never seen.
        num_clips: [8] int64 clips that showed it.
    """

    neutral: Tensor
    directions: Tensor
    num_clips: Tensor


class ExpressionPredictor(nn.Module):
    """Emotions and sound to expression codes; only what sound adds is trained.

    Args:
        scale: statistics of the expression codes [10].
        size: of the encoder of the sound.
        table: what emotions look like.
    """

    neutral: Tensor
    directions: Tensor
    num_clips: Tensor

    def __init__(self, scale: Standardiser, size: SpeechSize, table: MoodTable) -> None:
        super().__init__()
        for name, value in table._asdict().items():
            self.register_buffer(name, value.clone())
        self.scale = scale
        self.speech = SpeechEncoder(size)
        self.mood = nn.Linear(NUM_EMOTIONS + 1, size.width)
        self.mix = nn.Linear(size.width, size.width)
        self.leave = nn.Linear(size.width, len(scale.mean))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> "ExpressionPredictor":
        """The network of a state dict, in eval mode."""
        table = MoodTable(*(state[name] for name in MoodTable._fields))
        network = ExpressionPredictor(
            Standardiser(state["scale.mean"], state["scale.std"]), SpeechSize.of(state), table
        )
        network.load_state_dict(dict(state))
        return network.eval()

    def forward(self, mood: Tensor, windows: Tensor, inside: Tensor | None = None) -> Expressions:
        """All three at once, for training.

        Args:
            mood: [B, T, 8], see `mood_of`.
            windows: [B, T, 1, 80, 16] mel windows (field `mel_edtalk`).
            inside: [B, T] bool, False behind the end of a clip; None is True everywhere.
        """
        speech = self.speech(windows, inside)
        return Expressions(self.felt(mood), self.heard(speech), self.both(mood, speech))

    def felt(self, mood: Tensor) -> Tensor:
        """[.., 10] codes of moods [.., 8] alone."""
        with no_autocast(mood):
            return self.neutral + mood.float() @ self.directions

    def heard(self, speech: Tensor) -> Tensor:
        """[B, T, 10] codes of sound [B, T, W] (from `speech`) alone."""
        return self.scale.undo(self._drawn(speech.new_zeros(NUM_EMOTIONS), 1.0, speech))

    def both(self, mood: Tensor, speech: Tensor) -> Tensor:
        """[B, T, 10] codes of moods [B, T, 8] and sound [B, T, W]."""
        return self.felt(mood) + self._drawn(mood, 0.0, speech).float() * self.scale.std

    def _drawn(self, mood: Tensor, unknown: float, speech: Tensor) -> Tensor:
        """[B, T, 10] what the sound makes of a mood, or of an unknown one, in standardised units."""
        flag = torch.full_like(mood[..., :1], unknown)
        hidden = self.mix(speech + self.mood(torch.cat([mood, flag], dim=-1)))
        return self.leave(functional.gelu(hidden))


def mood_of(emotion: Tensor, intensity: Tensor) -> Tensor:
    """[.., 8] moods: the intensity in the place of the emotion; all zero is neutral. Moods can be added.

    Args:
        emotion: [..] int64 0..7, -1 unknown.
        intensity: [..] 0 is neutral, 1 the strongest that was seen; more exaggerates.
    """
    chosen = functional.one_hot(emotion.clamp_min(0), NUM_EMOTIONS) * intensity[..., None].float()
    is_felt = (emotion >= 0) & (emotion != NEUTRAL)
    return torch.where(is_felt[..., None], chosen, 0.0)


def intensity_of(level: Tensor) -> Tensor:
    """Intensities of levels 1..3 as MEAD has them: a third each; an unknown one (-1) is full."""
    known = level.clamp(1, HIGHEST_LEVEL) / HIGHEST_LEVEL
    return torch.where(level < 0, 1.0, known)


def mood_table(codes: Sequence[NDArray[np.float32]], emotion: Tensor, level: Tensor) -> MoodTable:
    """The neutral codes and directions that explain all frames of clips with a known emotion best, least squares.

    Where several explain them alike (no clip is neutral, say), the smallest. Without any such clip the mean of all.

    Args:
        codes: [N, 10] of each clip, NaN in frames that do not count; each clip has others.
        emotion: [clips] int64 0..7, -1 unknown.
        level: [clips] int64, see `intensity_of`.
    """
    known = emotion >= 0
    num_clips = torch.bincount(emotion[known], minlength=NUM_EMOTIONS)
    codes = [own[np.isfinite(own).all(axis=1)] for own in codes]
    centre = np.concatenate(codes).mean(axis=0, dtype=np.float64)
    # the mood is the same in all frames of a clip: its mean, weighted by its length, says all
    weight = np.sqrt([len(own) for own in codes])[known.numpy(), None]
    moods = mood_of(emotion[known], intensity_of(level[known])).double().numpy()
    design = np.concatenate([np.ones_like(weight), moods], axis=1) * weight
    means = np.array([own.mean(axis=0, dtype=np.float64) - centre for own in codes])[known.numpy()]
    solution = np.linalg.lstsq(design, means * weight, rcond=None)[0]
    seen = moods.max(axis=0, initial=0)[:, None] > 0
    neutral, directions = centre + solution[0], np.where(seen, solution[1:], 0)
    return MoodTable(torch.from_numpy(neutral).float(), torch.from_numpy(directions).float(), num_clips)
