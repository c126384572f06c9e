"""Coarse pitch: the ends of its scale, and equal steps on the mel scale."""

import librosa
import numpy as np
import torch

from models.emogene.audio_encoder import NUM_ENTRIES, coarse_pitch


def test_unvoiced_and_too_low_are_1_and_the_top_is_255() -> None:
    hz = torch.tensor([0.0, 20.0, 50.0, 1100.0, 5000.0])
    assert coarse_pitch(hz).tolist() == [1, 1, 1, 255, 255]
    assert NUM_ENTRIES == 300


def test_steps_are_equal_on_the_mel_scale() -> None:
    hz = np.linspace(50, 1100, 400)
    low, high = (librosa.hz_to_mel(float(end), htk=True) for end in (50, 1100))
    expected = 1 + 254 * (librosa.hz_to_mel(hz, htk=True) - low) / (high - low)
    assert np.abs(coarse_pitch(torch.from_numpy(hz)).numpy() - expected).max() <= 0.51
