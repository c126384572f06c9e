"""mel against librosa in both paddings, and the law of its length."""

import librosa
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.features import mel
from tests.fake_clips import fake_clip, voice


def librosa_mel(samples: np.ndarray, pad_mode: str) -> np.ndarray:
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, pad_mode=pad_mode))
    bands = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600) @ spectrum
    level_db = 20 * np.log10(np.maximum(1e-5, bands)) - 20
    return np.clip(8 * (level_db + 100) / 100 - 4, -4, 4).T


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("num_frames", [1, 2, 125])
def test_equals_librosa(pad_mode: str, num_frames: int) -> None:
    clip = fake_clip(num_frames, audio=voice(num_frames) + np.random.default_rng(3).normal(0, 0.05, 640 * num_frames))
    made = mel.extract(clip, mel.Params.model_validate({"pad_mode": pad_mode}))["mel"]
    np.testing.assert_allclose(made, librosa_mel(clip.audio.astype(np.float64), pad_mode), atol=1e-5)


def test_paddings_differ_at_the_ends_only() -> None:
    samples = voice(50)
    differs = np.abs(mel.edtalk_mel(samples, "reflect") - mel.edtalk_mel(samples, "constant")).max(axis=1) > 1e-6
    assert set(np.flatnonzero(differs)) <= {0, 1, len(differs) - 2, len(differs) - 1}
    assert differs.any()


@pytest.mark.parametrize("level", [0.0, 1e-9, 1.0])
def test_silence_and_full_scale_stay_in_range(level: float) -> None:
    square = level * np.sign(np.sin(np.arange(6400) / 5))
    values = mel.extract(fake_clip(10, audio=square), mel.Params())["mel"]
    assert values.min() >= -4
    assert values.max() <= 4
    if level < 1e-6:
        assert (values == -4).all()


def test_unknown_padding_is_refused() -> None:
    with pytest.raises(ValidationError):
        mel.Params.model_validate({"pad_mode": "edge"})
