"""mel: the log-mel spectrogram that drives Wav2Lip and EDTalk, once per clip.

Source: Prajwal et al., A Lip Sync Expert Is All You Need, 2020 (audio settings); Tan et al., EDTalk, 2024.
`mel_windows.mel_windows` gives the 16-column window of each video frame. The clip's own samples are transformed, as
by EDTalk: its first and last two columns are not those of a slice of the whole recording's mel.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from storage.tables import Column
from storage.timelaw import SAMPLE_RATE_HZ
from tasks.clip import Clip
from tasks.dsp.spectrum import magnitudes, mel_filters

VERSION = 1
REQUIRES: tuple[str, ...] = ()
LIBRARIES = ("numpy",)
CODE_FILES = ("dsp/spectrum.py",)
COLUMNS = (
    Column(
        "mel",
        "float32",
        ("T80", 80),
        unit="dB scaled to -4..4",
        rate_hz=80.0,
        doc="Wav2Lip/EDTalk log-mel, 80 bands 55-7600 Hz; row t is centred on sample 200 t",
    ),
)

PREEMPHASIS = 0.97
FFT_SIZE = 800
HOP = 200
NUM_BANDS = 80
LOW_HZ, HIGH_HZ = 55.0, 7600.0
MIN_AMPLITUDE = 1e-5
REFERENCE_DB = 20.0
FLOOR_DB = -100.0
MAX_ABS = 4.0


class Params(BaseModel):
    """Padding of the clip at its ends: 'reflect' equals EDTalk's pinned librosa 0.8, 'constant' today's librosa."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pad_mode: Literal["reflect", "constant"] = "reflect"


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> dict[str, NDArray]:
    """`mel` [1 + 640 N // 200, 80] float32 in -4..4; digital silence, and a clip without audio, is -4 everywhere."""
    return {"mel": edtalk_mel(clip.audio, params.pad_mode)}


def edtalk_mel(
    samples: NDArray[np.floating], pad_mode: Literal["reflect", "constant"] = "reflect"
) -> NDArray[np.float32]:
    """Log-mel of 16 kHz samples [n], n > 400: [1 + n // 200, 80] float32 in -4..4."""
    emphasised = samples.astype(np.float64)
    emphasised[1:] -= PREEMPHASIS * samples[:-1]
    padded = np.pad(emphasised, FFT_SIZE // 2, mode=pad_mode)
    bands = magnitudes(padded, FFT_SIZE, HOP) @ mel_filters(SAMPLE_RATE_HZ, FFT_SIZE, NUM_BANDS, LOW_HZ, HIGH_HZ).T
    level_db = 20 * np.log10(np.maximum(MIN_AMPLITUDE, bands)) - REFERENCE_DB
    scaled = 2 * MAX_ABS * (level_db - FLOOR_DB) / -FLOOR_DB - MAX_ABS
    return np.clip(scaled, -MAX_ABS, MAX_ABS).astype(np.float32)
