"""EmotionPairs: neutral takes of a subject, and the difference of a take of the same subject with an emotion.

Two takes fit frame by frame only where they say the same sentence, which in MEAD few do and elsewhere none. Regressing
one take on the other regardless would teach the mean of the emotional speech minus the neutral speech: it silences the
mouth. Therefore two kinds of target:

- same sentence (see models.realtalk.alignment): the emotional take is warped to the time of the neutral one, and the
  residual is the difference frame by frame;
- another sentence: only what does not depend on time is carried over, the mean and the spread of each coordinate. The
  residual moves the neutral motion to the emotional mean and stretches it to the emotional spread (the optimal
  transport between Gaussians, coordinate by coordinate). Lips stay in time with the audio.

Neutral takes themselves are items too, with residual zero.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from models.data.collate import Item
from models.data.landmark_motion import NUM_COORDINATES, rest_shape
from models.data.motion_clips import MotionClip, MotionClips, window
from models.nn.standardiser import Moments
from models.realtalk.alignment import align, at_frames
from models.realtalk.emotion_residual import Scales
from storage.emotions import EMOTIONS
from storage.errors import ConfigError

Pairing = Literal["auto", "warp", "statistics"]
NEUTRAL = "neutral"
NUM_LEVELS = 3
# Neutral takes of a subject whose mean is its rest shape; more would only take longer to read.
_REST_CLIPS = 8
# How often the neutral take with the same number is chosen, which in MEAD may be the same sentence.
_SAME_TAKE_SHARE = 0.5
# Bounds of the stretch, so that a coordinate that hardly moves is not blown up.
_LOWEST_GAIN, _HIGHEST_GAIN = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Residual:
    """Training target of a neutral take of N frames.

    Attributes:
        offsets: [N, 204] float32 model units, NaN where not valid.
        valid: [N] bool.
        is_warped: by alignment, not by statistics.
    """

    offsets: NDArray[np.float32]
    valid: NDArray[np.bool_]
    is_warped: bool


class EmotionPairs(Dataset[dict[str, Any]]):
    """One item per clip of a subject that has neutral clips.

    An item of K frames has the fields of NeutralSpeech for one clip ([K, 204] and so on), and

        residual        [K, 204] float32, NaN where missing      residual_valid  [K] bool
        rest            [68, 3] float32, the subject's rest      is_warped       bool
        name            str, of the emotional clip

    Args:
        clips: of one split, with labels.
        num_frames: K.
        pairing: 'auto' warps pairs that say the same, 'warp' all, 'statistics' none.
        same_below: likeness below which a pair counts as the same sentence.
        seed: of the choices of neutral take, place and intensity, which depend on (seed, epoch, index) only; None
            always takes the first.

    Raises:
        ConfigError: no subject has neutral clips with a face, or none of these has another emotion.
    """

    def __init__(
        self, clips: MotionClips, num_frames: int, pairing: Pairing, same_below: float, seed: int | None
    ) -> None:
        self._clips, self._num_frames, self._pairing, self._same_below = clips, num_frames, pairing, same_below
        self._seed = seed
        self._neutral = _neutral_clips(clips)
        self._rests = self._rest_shapes()
        self._items = [index for index, label in enumerate(clips.labels) if label.subject in self._rests]
        self._require_emotions()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng([self._seed or 0, int(self._epoch), index])
        number = self._items[index]
        emotional = self._clips[number]
        if self._clips.labels[number].emotion == NEUTRAL:
            intensity = 1.0 if self._seed is None else 1 - rng.random()
            return self._item(number, emotional, emotional, intensity, rng)
        neutral = self._clips[self._partner(number, rng)]
        return self._item(number, neutral, emotional, intensity_of(emotional.level), rng)

    def set_epoch(self, epoch: int) -> None:
        """Changes the choices; call it before a loader is iterated."""
        self._epoch.fill_(epoch)

    def _item(
        self, number: int, neutral: MotionClip, emotional: MotionClip, intensity: float, rng: np.random.Generator
    ) -> Item:
        rest, count = self._rests[self._clips.labels[number].subject], self._num_frames
        first = 0 if self._seed is None else int(rng.integers(max(0, len(neutral) - count) + 1))
        residual = self._residual(neutral, emotional, rest)
        arrays = {
            "motion": window(offsets_from(neutral, rest), first, count, np.nan),
            "valid": window(neutral.valid, first, count, False),
            "inside": window(np.ones(len(neutral), bool), first, count, False),
            "audio": window(neutral.audio, 2 * first, 2 * count, 0.0),
            "residual": window(residual.offsets, first, count, np.nan),
            "residual_valid": window(residual.valid, first, count, False),
            "rest": rest,
        }
        labels = {"name": emotional.name, "emotion": emotional.emotion, "is_warped": residual.is_warped}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return labels | tensors | {"intensity": torch.tensor(intensity, dtype=torch.float32)}

    def _residual(self, neutral: MotionClip, emotional: MotionClip, rest: NDArray[np.float32]) -> Residual:
        if neutral is emotional:
            return Residual(
                np.where(neutral.valid[:, None], offsets_from(neutral, rest) * 0, np.nan), neutral.valid, False
            )
        if self._pairing != "statistics":
            alignment = align(neutral.mel50, emotional.mel50)
            if self._pairing == "warp" or alignment.likeness < self._same_below:
                return warped_residual(neutral, emotional, rest, alignment.frames)
        return transported_residual(neutral, emotional, rest)

    def _partner(self, number: int, rng: np.random.Generator) -> int:
        """The neutral clip that an emotional one is compared with."""
        label = self._clips.labels[number]
        choices = self._neutral[label.subject]
        same = [choice for choice in choices if label.take and self._clips.labels[choice].take == label.take]
        if same and (self._seed is None or rng.random() < _SAME_TAKE_SHARE):
            return same[0]
        return choices[0] if self._seed is None else choices[int(rng.integers(len(choices)))]

    def _rest_shapes(self) -> dict[str, NDArray[np.float32]]:
        """Subject -> mean of its neutral clips; without those that show no face in them."""
        found = {}
        for subject, numbers in self._neutral.items():
            takes = [self._clips[number] for number in numbers[:_REST_CLIPS]]
            lm3d, valid = (np.concatenate([getattr(take, name) for take in takes]) for name in ("lm3d", "valid"))
            if valid.any():
                found[subject] = rest_shape(lm3d, valid)
        return found

    def _require_emotions(self) -> None:
        if not self._rests:
            raise ConfigError(
                "no neutral clip with a face: emotion is learned as the difference to a subject's neutral takes;"
                " add neutral takes to the data, or correct the labels"
            )
        if all(self._clips.labels[number].emotion == NEUTRAL for number in self._items):
            raise ConfigError(
                f"no second emotion: of the subjects with neutral clips ({', '.join(sorted(self._rests))}) none has a"
                " clip with another emotion"
            )


def warped_residual(
    neutral: MotionClip, emotional: MotionClip, rest: NDArray[np.float32], frames: NDArray[np.float64]
) -> Residual:
    """Difference to the emotional take at the places `frames` [N] that correspond to the neutral frames."""
    moved = at_frames(offsets_from(emotional, rest), frames).astype(np.float32)
    valid = neutral.valid & np.isfinite(moved).all(axis=1)
    return Residual(np.where(valid[:, None], moved - offsets_from(neutral, rest), np.nan), valid, True)


def transported_residual(neutral: MotionClip, emotional: MotionClip, rest: NDArray[np.float32]) -> Residual:
    """Neutral motion moved to the mean and stretched to the spread of the emotional take, minus itself."""
    motion, goal = offsets_from(neutral, rest), offsets_from(emotional, rest)[emotional.valid]
    nothing = Residual(np.full_like(motion, np.nan), np.zeros(len(motion), bool), False)
    if min(len(goal), neutral.valid.sum()) < 2:
        return nothing
    mean, spread = motion[neutral.valid].mean(axis=0), motion[neutral.valid].std(axis=0)
    # a tenth of the usual spread as floor: coordinates that only tremble keep their gain near 1
    floor = 0.1 * float(np.sqrt(np.square(spread).mean())) + 1e-6
    gain = np.sqrt((np.square(goal.std(axis=0)) + floor**2) / (np.square(spread) + floor**2))
    moved = goal.mean(axis=0) + gain.clip(_LOWEST_GAIN, _HIGHEST_GAIN) * (motion - mean)
    return Residual((moved - motion).astype(np.float32), neutral.valid, False)


def offsets_from(clip: MotionClip, rest: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 204] lm3d minus rest [68, 3]; NaN where not valid."""
    return np.where(clip.valid[:, None], (clip.lm3d - rest).reshape(-1, NUM_COORDINATES), np.nan)


def intensity_of(level: int) -> float:
    """1/3, 2/3 or 1 for MEAD's levels; 1 where the level is not known."""
    return min(level, NUM_LEVELS) / NUM_LEVELS if level > 0 else 1.0


def measure(pairs: EmotionPairs, num_items: int) -> Scales:
    """Statistics of at most `num_items` items, spread evenly over all; the residual's of those with an emotion.

    Raises:
        ConfigError: none of these shows a face.
    """
    first = pairs[0]
    audio, motion, residual = (Moments(first[name].shape[1]) for name in ("audio", "motion", "residual"))
    for index in sorted({int(place) for place in np.linspace(0, len(pairs) - 1, min(num_items, len(pairs)))}):
        item = pairs[index]
        audio.add(item["audio"][item["inside"].repeat_interleave(2)].numpy())
        motion.add(item["motion"][item["valid"]].numpy())
        if item["emotion"] != EMOTIONS.index(NEUTRAL):
            residual.add(item["residual"][item["residual_valid"]].numpy())
    if not residual.num_rows:
        raise ConfigError("no clip with an emotion has frames whose face was fitted: see the snapshot's quality scores")
    return Scales(
        audio.standardiser(),
        motion.standardiser(is_std_shared=True),
        residual.standardiser(is_std_shared=True, is_centred=False),
    )


def _neutral_clips(clips: MotionClips) -> dict[str, Sequence[int]]:
    """Subject -> numbers of its neutral clips."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(clips.labels):
        if label.emotion == NEUTRAL:
            found[label.subject].append(number)
    return dict(found)
