"""Pitch as a class: the coarse scale by which the GeneFace line feeds the fundamental to an embedding."""

import math

import torch
from torch import Tensor

# Entries of the embedding; 1..255 are used.
NUM_ENTRIES = 300
_LOW_HZ, _HIGH_HZ = 50.0, 1100.0
_HIGHEST = 255


def coarse_pitch(f0_hz: Tensor) -> Tensor:
    """Classes 1..255 (int64) of fundamentals in Hz: equal mel steps from 50 to 1100 Hz; unvoiced (0) is 1."""
    low, high = _mel(_LOW_HZ), _mel(_HIGH_HZ)
    steps = (1127 * torch.log1p(f0_hz.float() / 700) - low) * (_HIGHEST - 1) / (high - low) + 1
    return steps.round().clamp(1, _HIGHEST).long()


def _mel(hz: float) -> float:
    return 1127 * math.log1p(hz / 700)
