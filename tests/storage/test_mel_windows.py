"""The per-frame windows of a mel against EDTalk's rule written out literally."""

import numpy as np
import pytest

from storage.mel_windows import mel_window_starts, mel_windows
from storage.timelaw import axis_length


def edtalk_windows(mel: np.ndarray, num_frames: int) -> np.ndarray:
    """(T, 1, 80, 16), frame by frame, column by column: start int(80 (i - 2) / 25), indices held at the ends."""
    out = np.empty((num_frames, 1, 80, 16), mel.dtype)
    for frame in range(num_frames):
        start = int(80 * (frame - 2) / 25.0)
        for column in range(16):
            out[frame, 0, :, column] = mel[min(max(start + column, 0), len(mel) - 1)]
    return out


def test_first_starts() -> None:
    assert mel_window_starts(9).tolist() == [-6, -3, 0, 3, 6, 9, 12, 16, 19]


def test_starts_are_the_float_rule_over_hours() -> None:
    assert mel_window_starts(200_000).tolist() == [int(80.0 * (i - 2) / 25.0) for i in range(200_000)]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 24, 124, 125])
def test_windows_are_edtalks(num_frames: int) -> None:
    mel = np.random.default_rng(0).normal(size=(axis_length("T80", num_frames), 80)).astype(np.float32)
    windows = mel_windows(mel, num_frames)
    assert windows.shape == (num_frames, 16, 80)
    assert windows.dtype == mel.dtype
    np.testing.assert_array_equal(windows.transpose(0, 2, 1)[:, None], edtalk_windows(mel, num_frames))
