"""mel50: the 50 Hz log-mel, pitch and loudness that GeneFace-style audio-to-motion models read.

Sources: Ye et al., GeneFace++, 2023 (mel and f0 settings); `tasks.dsp.pitch` for the method. Two rows per video frame.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from storage.tables import Column
from storage.timelaw import FPS, SAMPLE_RATE_HZ
from tasks.clip import Clip
from tasks.dsp.pitch import PitchRange, fundamental_hz
from tasks.dsp.spectrum import magnitudes, mel_filters

VERSION = 1
REQUIRES: tuple[str, ...] = ()
LIBRARIES = ("numpy",)
CODE_FILES = ("dsp/spectrum.py", "dsp/pitch.py")
COLUMNS = (
    Column(
        "mel50",
        "float32",
        ("2N", 80),
        unit="log10 amplitude",
        rate_hz=2 * FPS,
        doc="log10 mel, 80 bands 80-7600 Hz; row k is of samples 320 k to 320 k + 511, the last repeats the one before",
    ),
    Column(
        "f0_hz",
        "float32",
        ("2N",),
        unit="Hz",
        rate_hz=2 * FPS,
        doc="fundamental around sample 320 k + 256; 0 = unvoiced",
    ),
    Column("voiced", "bool", ("2N",), rate_hz=2 * FPS, doc="f0_hz > 0"),
    Column(
        "rms",
        "float32",
        ("2N",),
        unit="1 (full scale)",
        rate_hz=2 * FPS,
        doc="root mean square of samples 320 k to 320 k + 319",
    ),
)

FFT_SIZE = 512
HOP = 320
NUM_BANDS = 80
LOW_HZ, HIGH_HZ = 80.0, 7600.0
MIN_AMPLITUDE = 1e-6


class Params(BaseModel):
    """Pitch search range, and the autocorrelation peak that counts as voiced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    f0_low_hz: float = Field(default=80.0, ge=40.0)
    f0_high_hz: float = Field(default=750.0, le=2000.0)
    voicing_threshold: float = Field(default=0.6, gt=0.0, lt=1.0)


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> dict[str, NDArray]:
    """`mel50` [2N, 80], `f0_hz` [2N], `voiced` [2N] and `rms` [2N]; silence is -6, 0, False and 0."""
    num_rows = 2 * clip.num_frames
    voice = PitchRange(params.f0_low_hz, params.f0_high_hz, params.voicing_threshold)
    f0_hz = fundamental_hz(clip.audio, num_rows, HOP, FFT_SIZE // 2, voice)
    power = np.square(clip.audio.astype(np.float64)).reshape(num_rows, HOP).mean(axis=1)
    return {
        "mel50": geneface_mel(clip.audio),
        "f0_hz": f0_hz,
        "voiced": f0_hz > 0,
        "rms": np.sqrt(power).astype(np.float32),
    }


def geneface_mel(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """Log-mel of 16 kHz samples [n], n >= 512: [n // 320, 80] float32 log10 amplitude >= -6.

    The STFT is not centred and yields one row less for n = 640 N; its last row is repeated.
    """
    filters = mel_filters(SAMPLE_RATE_HZ, FFT_SIZE, NUM_BANDS, LOW_HZ, HIGH_HZ)
    bands = magnitudes(samples.astype(np.float64), FFT_SIZE, HOP) @ filters.T
    levels = np.log10(np.maximum(MIN_AMPLITUDE, bands)).astype(np.float32)
    return np.pad(levels, ((0, len(samples) // HOP - len(levels)), (0, 0)), mode="edge")
