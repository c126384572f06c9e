"""Audio windows per video frame: which mel columns belong to which frame.

A mel is stored once per clip; the overlapping windows that a model reads are gathered from it here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.timelaw import FPS

MEL_COLUMNS_PER_S = 80
WINDOW_COLUMNS = 16


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
