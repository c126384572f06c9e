"""Driving sound: the samples that go into the result, and the mel that drives it, of a file of any length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.errors import PreflightError
from storage.timelaw import FPS, SAMPLES_PER_FRAME, axis_length, num_samples
from tasks.features.mel import HOP, NUM_BANDS, edtalk_mel
from tasks.media.audio import cut_audio, read_audio
from tasks.media.video import probe
from tasks.portrait.find import readable

_BLOCK_ROWS = 1000  # 12.5 s, whose spectra take 16 MB
_EDGE_ROWS = 3  # rows that the ends of a block reach: half a window of two hops, and the sample before it


@dataclass(frozen=True, slots=True)
class DrivingSound:
    """Sound of N frames.

    Attributes:
        samples: [640 N] float32 mono 16 kHz.
        mel: [1 + 640 N // 200, 80] float32, as tasks.features.mel makes it.
    """

    samples: NDArray[np.float32]
    mel: NDArray[np.float32]

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.samples) // SAMPLES_PER_FRAME


def read_driving_sound(path: Path) -> DrivingSound:
    """All whole frames of a file's sound, from its first sample on.

    Raises:
        PreflightError: the file is missing or cannot be read, has no sound, is silent, or shorter than a frame.
    """
    with readable(path):
        track = read_audio(path)
    if track is None or not len(track.samples):
        raise PreflightError(f"{path}: has no sound to drive the mouth; name a file that has")
    if track.is_silent:
        raise PreflightError(f"{path}: its sound is silent (below -60 dB); nothing could drive the mouth")
    samples = track.samples[: num_samples(len(track.samples) // SAMPLES_PER_FRAME)]
    if not len(samples):
        raise PreflightError(f"{path}: its sound is {len(track.samples)} samples long, shorter than a frame")
    return DrivingSound(samples, long_mel(samples))


def video_sound(path: Path, num_frames: int) -> NDArray[np.float32] | None:
    """[640 N] float32: the sound of a video from its first frame on, silence where it has none; None without any.

    Raises:
        PreflightError: the file is missing or cannot be read.
    """
    with readable(path):
        first_slot, track = round(probe(path).video_start_s * FPS), read_audio(path)
    return None if track is None else cut_audio(track, first_slot, num_frames)


def long_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """`edtalk_mel` of [640 N] samples in blocks: the spectra of all would be twenty times as large as the sound."""
    mel = np.empty((axis_length("T80", len(samples) // SAMPLES_PER_FRAME), NUM_BANDS), np.float32)
    for first, last, begin, end in _blocks(len(mel)):
        part = edtalk_mel(samples[begin * HOP : end * HOP if end < len(mel) else None])
        mel[first:last] = part[first - begin : last - begin]
    return mel


def _blocks(num_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """(first, last) rows of each block, and the (begin, end) of those to compute: a last block is never short."""
    num_blocks = max(1, num_rows // _BLOCK_ROWS)
    edges = [num_rows * block // num_blocks for block in range(num_blocks + 1)]
    for first, last in pairwise(edges):
        yield first, last, max(0, first - _EDGE_ROWS), min(num_rows, last + _EDGE_ROWS)
