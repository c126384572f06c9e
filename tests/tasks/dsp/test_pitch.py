"""Pitch against signals whose fundamental is known, and against librosa's pYIN on real speech."""

from pathlib import Path

import librosa
import numpy as np
import pytest

from tasks.dsp.pitch import PitchRange, fundamental_hz
from tasks.media.audio import read_audio
from tests.fake_clips import harmonics

VOICE = PitchRange()
SECONDS = 4


def measured(samples: np.ndarray, first_centre: int = 160) -> np.ndarray:
    return fundamental_hz(samples.astype(np.float32), len(samples) // 320, 320, first_centre, VOICE)


@pytest.mark.parametrize(
    ("start_hz", "end_hz"), [(85, 120), (100, 250), (300, 150), (400, 740), (220, 220), (82, 82), (730, 730)]
)
@pytest.mark.parametrize("num_harmonics", [1, 20])
def test_glides_within_one_percent(start_hz: float, end_hz: float, num_harmonics: int) -> None:
    f0_hz = start_hz * (end_hz / start_hz) ** np.linspace(0, 1, 16000 * SECONDS)
    samples = 0.1 * harmonics(f0_hz, num_harmonics) + np.random.default_rng(0).normal(0, 0.002, len(f0_hz))
    found = measured(samples)[1:-1]
    np.testing.assert_allclose(found, f0_hz[160::320][1:-1], rtol=0.01)


def test_missing_fundamental_is_heard() -> None:
    time_s = np.arange(16000) / 16000
    samples = sum(np.sin(2 * np.pi * 120 * k * time_s + k) for k in range(2, 7)) * 0.05
    np.testing.assert_allclose(measured(samples)[1:-1], 120, rtol=0.01)


def test_voicing_decisions() -> None:
    rng = np.random.default_rng(5)
    pieces, truth = [], []
    for kind in list(range(3)) * 12:
        count = 320 * int(rng.integers(10, 30))
        tone = 0.1 * harmonics(np.full(count, rng.uniform(90, 350)))
        pieces.append([tone, rng.normal(0, 0.05, count), rng.normal(0, 1e-4, count)][kind])
        truth.append(np.full(count, kind == 0))
    is_voiced = measured(np.concatenate(pieces)) > 0
    assert (is_voiced == np.concatenate(truth)[160::320]).mean() >= 0.95


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_quiet_clips_have_no_voice(level: float) -> None:
    hum = level * harmonics(np.full(16000, 100.0))
    assert not measured(hum).any()


def test_level_does_not_matter() -> None:
    samples = 0.1 * harmonics(np.full(16000, 200.0))
    np.testing.assert_allclose(measured(samples), measured(samples * 5), rtol=1e-4)


def test_agrees_with_pyin_on_real_speech(media: Path) -> None:
    track = read_audio(media / "surprise_512_25fps_3s.mp4")
    assert track is not None
    samples = track.samples[: len(track.samples) // 320 * 320]
    found = measured(samples, first_centre=0)
    truth, is_voiced, _ = librosa.pyin(samples, fmin=80, fmax=750, sr=16000, frame_length=1024, hop_length=320)
    both = is_voiced[: len(found)] & (found > 0)
    cents = np.abs(1200 * np.log2(found[both] / truth[: len(found)][both]))
    assert both.sum() > 50
    assert np.median(cents) < 35
    assert (cents > 600).mean() < 0.02
