"""Short-time spectra and the Slaney mel filter bank in plain numpy (librosa costs a worker 2.4 s to load)."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

# Slaney's scale: linear (200/3 Hz per mel) up to 1 kHz = 15 mel, then 27 mel per factor 6.4.
_LINEAR_HZ_PER_MEL = 200 / 3
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def magnitudes(samples: NDArray[np.floating], fft_size: int, hop: int) -> NDArray[np.float64]:
    """Magnitude spectra of Hann-windowed frames, the first starting at sample 0 (pad before for a centred STFT).

    Args:
        samples: [n], n >= fft_size.
        fft_size: samples per frame and FFT points.
        hop: samples between frame starts.

    Returns:
        [1 + (n - fft_size) // hop, fft_size // 2 + 1] float64.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, fft_size)[::hop]
    return np.abs(np.fft.rfft(frames * hann(fft_size), axis=1))


def hann(size: int) -> NDArray[np.float64]:
    """[size] periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


@cache
def mel_filters(
    sample_rate_hz: int, fft_size: int, num_bands: int, low_hz: float, high_hz: float
) -> NDArray[np.float64]:
    """[num_bands, fft_size // 2 + 1] float64, read-only: triangles of unit area on the Slaney mel scale (librosa's).

    Source: Slaney, Auditory Toolbox, 1998.
    """
    mels = np.linspace(_hz_to_mel(low_hz), _hz_to_mel(high_hz), num_bands + 2)
    above_hz = _LOG_START_HZ * np.exp(_LOG_STEP * (mels - _LOG_START_MEL))
    edges_hz = np.where(mels < _LOG_START_MEL, mels * _LINEAR_HZ_PER_MEL, above_hz)
    bins_hz = np.linspace(0, sample_rate_hz / 2, fft_size // 2 + 1)
    widths_hz = np.diff(edges_hz)
    rises = (bins_hz - edges_hz[:-2, None]) / widths_hz[:-1, None]
    falls = (edges_hz[2:, None] - bins_hz) / widths_hz[1:, None]
    triangles = np.maximum(0, np.minimum(rises, falls))
    filters = triangles * (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    filters.setflags(write=False)
    return filters


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_START_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _LOG_START_MEL + float(np.log(hz / _LOG_START_HZ)) / _LOG_STEP
