"""mel50 against librosa; pitch and loudness rows against closed forms."""

import librosa
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.features import mel50
from tests.fake_clips import fake_clip, harmonics, voice


@pytest.mark.parametrize("num_frames", [1, 2, 125])
def test_mel_equals_librosa_and_repeats_its_last_row(num_frames: int) -> None:
    clip = fake_clip(num_frames, audio=voice(num_frames) + np.random.default_rng(3).normal(0, 0.01, 640 * num_frames))
    made = mel50.extract(clip, mel50.Params())["mel50"]
    spectrum = np.abs(
        librosa.stft(clip.audio.astype(np.float64), n_fft=512, hop_length=320, win_length=512, center=False)
    )
    bands = librosa.filters.mel(sr=16000, n_fft=512, n_mels=80, fmin=80, fmax=7600) @ spectrum
    truth = np.log10(np.maximum(1e-6, bands)).T
    assert len(truth) == 2 * num_frames - 1
    np.testing.assert_allclose(made[:-1], truth, atol=1e-5)
    np.testing.assert_array_equal(made[-1], made[-2])


def test_pitch_rows_are_centred_like_mel_rows() -> None:
    f0_hz = np.linspace(120, 240, 640 * 50)
    rows = mel50.extract(fake_clip(50, audio=0.1 * harmonics(f0_hz)), mel50.Params())
    np.testing.assert_allclose(rows["f0_hz"][1:-1], f0_hz[256::320][1:-1], rtol=0.003)
    np.testing.assert_array_equal(rows["voiced"], rows["f0_hz"] > 0)


def test_rms_of_a_step() -> None:
    audio = np.concatenate([np.full(3200, 0.5), np.zeros(3200)])
    rms = mel50.extract(fake_clip(10, audio=audio), mel50.Params())["rms"]
    np.testing.assert_allclose(rms, [0.5] * 10 + [0] * 10)


def test_silence() -> None:
    rows = mel50.extract(fake_clip(5, audio=np.zeros(3200), has_audio=False), mel50.Params())
    assert (rows["mel50"] == -6).all()
    assert not rows["f0_hz"].any()
    assert not rows["rms"].any()


def test_range_limits_pitch() -> None:
    clip = fake_clip(25, audio=0.1 * harmonics(np.full(16000, 100.0), 1))
    assert not mel50.extract(clip, mel50.Params(f0_low_hz=200))["voiced"][2:-2].any()
    with pytest.raises(ValidationError):
        mel50.Params(f0_low_hz=10)
