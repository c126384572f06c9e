"""The filter bank and the spectra against librosa."""

import librosa
import numpy as np
import pytest

from tasks.dsp.spectrum import hann, magnitudes, mel_filters


@pytest.mark.parametrize(("fft_size", "low_hz"), [(800, 55.0), (512, 80.0)])
def test_filters_are_librosas(fft_size: int, low_hz: float) -> None:
    truth = librosa.filters.mel(sr=16000, n_fft=fft_size, n_mels=80, fmin=low_hz, fmax=7600, dtype=np.float64)
    np.testing.assert_allclose(mel_filters(16000, fft_size, 80, low_hz, 7600.0), truth, atol=1e-12)


def test_filters_are_shared_and_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        mel_filters(16000, 800, 80, 55.0, 7600.0)[0, 0] = 1


def test_hann_is_periodic() -> None:
    np.testing.assert_allclose(hann(8) + np.roll(hann(8), 4), 1, atol=1e-15)


def test_magnitudes_are_librosas_uncentred_stft() -> None:
    samples = np.random.default_rng(1).normal(size=5000)
    truth = np.abs(librosa.stft(samples, n_fft=512, hop_length=320, center=False)).T
    np.testing.assert_allclose(magnitudes(samples, 512, 320), truth, atol=1e-10)
