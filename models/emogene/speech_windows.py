"""SpeechWindows: windows of fixed length of face motion with their audio and controls, the training data of the VAE."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from models.data.collate import Item
from models.data.landmark_motion import NUM_COORDINATES, amplitudes, eye_opening, rest_shape
from models.data.motion_clips import MotionClip, MotionClips, window
from models.nn.standardiser import Moments, Standardiser
from storage.errors import ConfigError

Target = Literal["lm3d", "exp"]


@dataclass(frozen=True, slots=True)
class SpeechStatistics:
    """Statistics of the training clips.

    Attributes:
        audio: of the audio features, band by band.
        motion: of the target; one spread for all its numbers, so that proportions are kept.
        amplitudes: [2] usual amplitude of mouth and upper face, model units.
    """

    audio: Standardiser
    motion: Standardiser
    amplitudes: NDArray[np.float32]


class SpeechWindows(Dataset[dict[str, Any]]):
    """One window per clip, at a random place of it.

    An item of K frames has

        motion      [K, D] float32, NaN where missing     valid       [K] bool, motion is known
        audio       [2 K, A] float32                      inside      [K] bool, False behind the end of a short clip
        f0_hz       [2 K] float32                         opening     [K] float32 of the eyes, 0 = usual, -1 = closed
        amplitudes  [2] float32, 1 = usual                rest        [68, 3] float32, the origin of the offsets
        name        str

    Args:
        clips: to cut from.
        target: 'lm3d', offsets [K, 204] from the mean of the clip, or 'exp', coefficients [K, Ke].
        num_frames: K.
        usual: amplitudes that count as 1.
        seed: of the places, which depend on (seed, epoch, index) only; None takes the beginning of each clip.
    """

    def __init__(
        self, clips: MotionClips, target: Target, num_frames: int, usual: NDArray[np.float32], seed: int | None
    ) -> None:
        self._clips, self._num_frames, self._usual, self._seed = clips, num_frames, usual, seed
        self._target: Target = target
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Item:
        clip, count = self._clips[index], self._num_frames
        first = self._first(len(clip), index)
        inside = np.ones(len(clip), bool)
        arrays = {
            "motion": window(motion_of(clip, self._target), first, count, np.nan),
            "valid": window(clip.valid, first, count, False),
            "inside": window(inside, first, count, False),
            "opening": window(eye_opening(clip.lm3d, clip.valid), first, count, 0.0),
            "audio": window(clip.audio, 2 * first, 2 * count, 0.0),
            "f0_hz": window(clip.f0_hz, 2 * first, 2 * count, 0.0),
            "amplitudes": self._relative(clip),
            "rest": rest_shape(clip.lm3d, clip.valid),
        }
        return {"name": clip.name} | {name: torch.from_numpy(array) for name, array in arrays.items()}

    def set_epoch(self, epoch: int) -> None:
        """Changes the places; call it before a loader is iterated."""
        self._epoch.fill_(epoch)

    def _first(self, num_frames: int, index: int) -> int:
        if self._seed is None:
            return 0
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        return int(rng.integers(max(0, num_frames - self._num_frames) + 1))

    def _relative(self, clip: MotionClip) -> NDArray[np.float32]:
        if not clip.valid.any():
            return np.ones(2, np.float32)
        return amplitudes(clip.lm3d, clip.valid) / self._usual


def motion_of(clip: MotionClip, target: Target) -> NDArray[np.float32]:
    """[N, D] the motion to predict; NaN where not valid."""
    if target == "exp":
        return np.where(clip.valid[:, None], clip.exp, np.nan)
    offsets = (clip.lm3d - rest_shape(clip.lm3d, clip.valid)).reshape(-1, NUM_COORDINATES)
    return np.where(clip.valid[:, None], offsets, np.nan)


def measure(clips: MotionClips, target: Target, num_clips: int) -> SpeechStatistics:
    """Statistics of at most `num_clips` clips, spread evenly over all.

    Raises:
        ConfigError: none of them has a frame with a face.
    """
    first = clips[0]
    audio, motion = Moments(first.audio.shape[1]), Moments(motion_of(first, target).shape[1])
    usual, num_faces = np.zeros(2), 0
    for clip in (clips[index] for index in clips.spread(num_clips)):
        audio.add(clip.audio)
        motion.add(motion_of(clip, target)[clip.valid])
        if clip.valid.any():
            usual, num_faces = usual + amplitudes(clip.lm3d, clip.valid), num_faces + 1
    if not motion.num_rows:
        raise ConfigError("no training clip has a frame whose face was fitted: see the quality scores of the snapshot")
    usual = np.maximum(usual / num_faces, 1e-6).astype(np.float32)
    return SpeechStatistics(audio.standardiser(), motion.standardiser(is_std_shared=True), usual)
