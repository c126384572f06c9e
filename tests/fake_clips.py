"""Clips made of numbers: faces that move and voices that audio exactly as asked, so that tests know the truth."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.timelaw import FPS, SAMPLE_RATE_HZ, num_samples
from tasks.clip import Clip

SIZE_PX = 256
LOWER_JAW = [*range(4, 13), 55, 56, 57, 58, 59, 65, 66, 67]


def fake_clip(num_frames: int = 50, *, missing: Sequence[int] = (), seed: int = 0, **changes: Any) -> Clip:
    """A voiced, moving clip without gaps; `missing` frames have NaN landmarks, `changes` replace any field of Clip.

    Its arrays are read-only: an extractor that writes into its input fails.
    """
    rng = np.random.default_rng(seed)
    landmarks = moving_face(num_frames) + rng.normal(0, 0.2, (num_frames, 68, 2))
    landmarks[list(missing)] = np.nan
    fields: dict[str, Any] = {
        "key": f"fake#{seed}",
        "num_frames": num_frames,
        "size_px": SIZE_PX,
        "group": "0",
        "audio": voice(num_frames, seed=seed),
        "has_audio": True,
        "landmarks": landmarks,
        "num_faces": np.ones(num_frames),
        "is_corrupt": np.zeros(num_frames),
        "source_px_per_crop_px": 2.0,
        "read_jpeg": image_jpeg,
        **changes,
    }
    for name, dtype in {"audio": "f4", "landmarks": "f4", "num_faces": "i2", "is_corrupt": "?"}.items():
        fields[name] = np.array(fields[name], dtype=dtype)
        fields[name].setflags(write=False)
    return Clip(**fields)


@cache
def neutral_face() -> NDArray[np.float64]:
    """[68, 2] px: a frontal face, mouth closed, where EDTalk's template has it in a 256-px crop. Shared: copy it."""
    jaw = [(127.5 - 66 * np.cos(a), 113 + 111 * np.sin(a)) for a in np.linspace(0, np.pi, 17)]
    brows = [
        (x, 95 - 6 * np.sin(np.pi * k / 4)) for xs in ((75, 115), (140, 180)) for k, x in enumerate(np.linspace(*xs, 5))
    ]
    nose = [(127.5, y) for y in np.linspace(113, 146, 4)] + [
        (x, 157 - abs(x - 127.5) / 6) for x in np.linspace(112, 143, 5)
    ]
    eyes = [(cx + 13 * dx, 113 + 5 * dy) for cx in (98, 157) for dx, dy in _EYE]
    outer = [(127.5 + 26 * np.cos(a), 180 - 9 * np.sin(a)) for a in np.linspace(np.pi, -np.pi, 12, endpoint=False)]
    inner = [(127.5 + 20 * np.cos(a), 180 - 1 * np.sin(a)) for a in np.linspace(np.pi, -np.pi, 8, endpoint=False)]
    return np.array(jaw + brows + nose + eyes + outer + inner)


_EYE = ((-1, 0), (-0.5, -1), (0.5, -1), (1, 0), (0.5, 1), (-0.5, 1))


def moving_face(num_frames: int, jaw_drop_px: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """[N, 68, 2] px: the neutral face swaying slowly by 6 px, its lower jaw and lip `jaw_drop_px` [N] lower."""
    seconds = np.arange(num_frames) / FPS
    sway = np.stack([6 * np.sin(2 * np.pi * 0.3 * seconds), 3 * np.cos(2 * np.pi * 0.2 * seconds)], axis=1)
    face = neutral_face() + sway[:, None]
    if jaw_drop_px is not None:
        face[:, LOWER_JAW, 1] += jaw_drop_px[:, None]
    return face


def loudness(num_samples: int, seed: int = 0) -> NDArray[np.float64]:
    """[n] in 0..1: syllables of irregular strength, three to five a second, with pauses."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.17, 0.4, 2 + int(6 * num_samples / SAMPLE_RATE_HZ)))
    strengths = rng.uniform(0.3, 1.0, len(times)) * (rng.random(len(times)) > 0.2)
    seconds = np.arange(num_samples) / SAMPLE_RATE_HZ
    bumps = [s * np.exp(-(((seconds - t) / 0.06) ** 2)) for t, s in zip(times, strengths, strict=True)]
    return np.clip(np.sum(bumps, axis=0), 0, 1)


def voice(num_frames: int, seed: int = 0) -> NDArray[np.float64]:
    """[640 N]: a harmonic voice gliding about 150 Hz, shaped by `loudness`, over faint noise."""
    count = num_samples(num_frames)
    return 0.2 * loudness(count, seed) * harmonics(150 + 20 * np.sin(np.arange(count) / 5000)) + _noise(count, seed)


def harmonics(f0_hz: NDArray[np.floating], num_harmonics: int = 20) -> NDArray[np.float64]:
    """[n] in about -1..1: a tone of 1/k harmonics below 7 kHz whose fundamental follows f0_hz [n]."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / SAMPLE_RATE_HZ
    orders = range(1, min(num_harmonics, int(7000 / f0_hz.max())) + 1)
    return np.sum([np.sin(k * phase) / k for k in orders], axis=0) / 1.8


def talking_clip(
    num_frames: int, offset_frames: int, *, missing: Sequence[int] = (), seed: int = 0, noise_px: float = 0.4
) -> Clip:
    """A clip whose jaw follows the loudness of its voice, the audio `offset_frames` later than the video."""
    pad = 20
    count = num_samples(num_frames + 2 * pad)
    strength = loudness(count, seed)
    audio = 0.2 * strength * harmonics(np.full(count, 140.0)) + _noise(count, seed)
    drop_px = 12 * strength[:: num_samples(1)][pad : pad + num_frames]
    face = moving_face(num_frames, drop_px)
    face += np.random.default_rng(seed + 1).normal(0, noise_px, face.shape)
    face[list(missing)] = np.nan
    first = num_samples(pad - offset_frames)
    return fake_clip(num_frames, seed=seed, landmarks=face, audio=audio[first : first + num_samples(num_frames)])


def image(index: int) -> NDArray[np.uint8]:
    """[256, 256, 3] RGB uint8: a smooth image with some texture that depends on the index."""
    rng = np.random.default_rng(index)
    coarse = rng.uniform(60, 200, (16, 16, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


@cache
def image_jpeg(index: int) -> bytes:
    """`image(index % 8)` as JPEG."""
    return encode(image(index % 8))


def encode(rgb: NDArray[np.uint8]) -> bytes:
    """An RGB or gray image as JPEG of quality 95."""
    ordered = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    return cv2.imencode(".jpg", np.ascontiguousarray(ordered), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _noise(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed + 99).normal(0, 1e-3, count)
