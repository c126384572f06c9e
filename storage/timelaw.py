"""The time law: one clip of N video frames has exactly 640 N audio samples, N landmark rows, N boxes.

Every length and every rate in the project comes from this file.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FPS = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
MEL_COLUMNS_PER_S = 80
SAMPLES_PER_MEL_COLUMN = SAMPLE_RATE_HZ // MEL_COLUMNS_PER_S
WINDOW_COLUMNS = 16


def num_samples(num_frames: int) -> int:
    """Audio samples at 16 kHz that belong to `num_frames` video frames at 25 fps."""
    return SAMPLES_PER_FRAME * num_frames


def axis_length(symbol: int | str, num_frames: int) -> int:
    """Length of a symbolic axis for a clip of `num_frames` frames.

    'N' is one row per video frame, '2N' one per 20 ms, 'T80' one mel column per 12.5 ms of a centred STFT
    (1 + floor(640 N / 200)); an int is itself.

    Raises:
        KeyError: the symbol is none of these.
    """
    if isinstance(symbol, int):
        return symbol
    return {"N": num_frames, "2N": 2 * num_frames, "T80": 1 + num_samples(num_frames) // SAMPLES_PER_MEL_COLUMN}[symbol]


def mel_windows(mel: NDArray[Any], num_frames: int) -> NDArray[Any]:
    """The 16 mel columns (200 ms) around each video frame, as EDTalk's and Wav2Lip's readers cut them.

    Args:
        mel: [T80, B], one row per 12.5 ms, T80 >= 1.
        num_frames: N.

    Returns:
        [N, 16, B], dtype of `mel`; rows before the first and after the last repeat the end. EDTalk's array
        (N, 1, 80, 16) is `mel_windows(mel, N).transpose(0, 2, 1)[:, None]`.
    """
    rows = mel_window_starts(num_frames)[:, None] + np.arange(WINDOW_COLUMNS)
    return mel[np.clip(rows, 0, len(mel) - 1)]


def mel_window_starts(num_frames: int) -> NDArray[np.int64]:
    """[N] int64, first mel row of each frame's window: 80 (i - 2) / 25 truncated toward zero, before clamping.

    -6, -3, 0, 3, 6, 9, 12, 16, 19, ...: two frames ahead of the frame, three behind it. Negative at the start.
    """
    frames = np.arange(num_frames, dtype=np.int64) - 2
    return np.sign(frames) * (MEL_COLUMNS_PER_S * np.abs(frames) // FPS)
