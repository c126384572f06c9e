"""Driving audio: the samples that go into the result, and the features that drive it, of a file of any length."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError, PreflightError
from storage.timelaw import FPS, SAMPLES_PER_FRAME, axis_length, num_samples
from tasks import features
from tasks.clip import Clip
from tasks.features.mel import HOP, NUM_BANDS, edtalk_mel
from tasks.media.audio import cut_audio, read_audio
from tasks.media.video import probe
from tasks.portrait.find import readable

_BLOCK_ROWS = 1000  # 12.5 s, whose spectra take 16 MB
_EDGE_ROWS = 3  # rows that the ends of a block reach: half a window of two hops, and the sample before it


def read_driving_audio(path: Path) -> NDArray[np.float32]:
    """[640 N] float32 mono 16 kHz: all whole frames of a file's audio, from its first sample on.

    Raises:
        PreflightError: the file is missing or cannot be read, has no audio, is silent, or shorter than a frame.
    """
    with readable(path):
        track = read_audio(path)
    if track is None or not len(track.samples):
        raise PreflightError(f"{path}: has no audio to drive the face; name a file that has")
    if track.is_silent:
        raise PreflightError(f"{path}: its audio is silent (below -60 dB); nothing could drive the face")
    samples = track.samples[: num_samples(len(track.samples) // SAMPLES_PER_FRAME)]
    if not len(samples):
        raise PreflightError(f"{path}: its audio is {len(track.samples)} samples long, shorter than a frame")
    return samples


def video_audio(path: Path, num_frames: int) -> NDArray[np.float32] | None:
    """[640 N] float32: the audio of a video from its first frame on, silence where it has none; None without any.

    Raises:
        PreflightError: the file is missing or cannot be read.
    """
    with readable(path):
        first_slot, track = round(probe(path).video_start_s * FPS), read_audio(path)
    return None if track is None else cut_audio(track, first_slot, num_frames)


def audio_features(samples: NDArray[np.float32], names: tuple[str, ...]) -> dict[str, NDArray]:
    """Columns of extractors that need nothing but audio, with their default parameters.

    Args:
        samples: [640 N].
        names: of extractors, such as 'mel' or 'mel50'.

    Returns:
        Column -> array: `mel` [1 + 640 N // 200, 80], `mel50` [2 N, 80], `f0_hz` [2 N], ...

    Raises:
        ConfigError: there is no such extractor.
        PreflightError: it cannot run on this machine; the line says what is missing.
    """
    found: dict[str, NDArray] = {"mel": long_mel(samples)} if "mel" in names else {}
    for name in names:
        if name == "mel":
            continue
        if name not in features.discover():
            raise ConfigError(f"no extractor {name!r}; there are {', '.join(features.discover())}")
        extractor = features.discover()[name]
        params = extractor.Params()
        if why := features.missing(name, params):
            raise PreflightError(f"feature {name}: {why}")
        found |= {
            key: np.asarray(value) for key, value in extractor.extract(_audio_clip(samples), params, None).items()
        }
    return found


def _audio_clip(samples: NDArray[np.float32]) -> Clip:
    """A clip of which only the audio is known."""
    num_frames = len(samples) // SAMPLES_PER_FRAME
    landmarks, zeros = np.full((num_frames, 68, 2), np.nan, np.float32), np.zeros(num_frames, np.int16)
    return Clip("", num_frames, 0, "", samples, True, landmarks, zeros, zeros.astype(bool), 1.0, lambda index: b"")


def long_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """`edtalk_mel` of [640 N] samples in blocks: the spectra of all would be twenty times as large as the audio."""
    mel = np.empty((axis_length("T80", len(samples) // SAMPLES_PER_FRAME), NUM_BANDS), np.float32)
    num_blocks = max(1, len(mel) // _BLOCK_ROWS)  # a last block is never short
    edges = [len(mel) * block // num_blocks for block in range(num_blocks + 1)]
    for first, last in pairwise(edges):
        begin, end = max(0, first - _EDGE_ROWS), min(len(mel), last + _EDGE_ROWS)
        part = edtalk_mel(samples[begin * HOP : end * HOP if end < len(mel) else None])
        mel[first:last] = part[first - begin : last - begin]
    return mel
