"""Motion clips made up in memory, whose truth is known, in the place of models.data.motion_clips.MotionClips."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.data.motion_clips import ClipLabels, MotionClip, MotionClips
from storage.emotions import emotion_id


class ClipList:
    """Clips in a list, read like MotionClips."""

    def __init__(self, clips: Sequence[MotionClip], labels: Sequence[ClipLabels]) -> None:
        self.clips, self.labels = clips, list(labels)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> MotionClip:
        return self.clips[index]

    def spread(self, count: int) -> list[int]:
        return list(range(min(count, len(self))))


def clip_list(*entries: tuple[str, str, MotionClip]) -> MotionClips:
    """(subject, emotion, clip) each."""
    labels = [ClipLabels(subject, emotion, clip.name[-3:]) for subject, emotion, clip in entries]
    return cast(MotionClips, ClipList([clip for _, _, clip in entries], labels))


def made_clip(name: str, num_frames: int, seed: int, emotion: str = "neutral", level: int = -1) -> MotionClip:
    """A clip of smooth random motion about a random shape, its frames 2 and 3 without a face."""
    rng = np.random.default_rng(seed)
    rest = rng.normal(0, 0.5, (68, 3))
    lm3d = (rest + 0.02 * smooth_noise(rng, num_frames, 68 * 3).reshape(num_frames, 68, 3)).astype(np.float32)
    exp = smooth_noise(rng, num_frames, 64).astype(np.float32)
    valid = np.ones(num_frames, bool)
    valid[2:4] = False
    lm3d[~valid], exp[~valid] = np.nan, np.nan
    mel = made_mel(rng, num_frames)
    f0_hz = np.where(rng.random(2 * num_frames) < 0.5, 0, rng.uniform(90, 300, 2 * num_frames)).astype(np.float32)
    return MotionClip(name, emotion_id(emotion), level, lm3d, exp, valid, mel, mel, f0_hz)


def made_mel(rng: np.random.Generator, num_frames: int) -> NDArray[np.float32]:
    """[2 N, 80] a spectrogram whose bands rise and fall together in groups, a few times a second."""
    return np.repeat(smooth_noise(rng, 2 * num_frames, 16), 5, axis=1).astype(np.float32)


def smooth_noise(rng: np.random.Generator, num_rows: int, num_channels: int) -> NDArray[np.float64]:
    """[n, C] noise of about unit size that changes within a few rows."""
    noise = rng.standard_normal((num_rows + 8, num_channels))
    return np.stack([np.convolve(column, np.hanning(9) / 1.7, mode="valid") for column in noise.T], axis=1)
