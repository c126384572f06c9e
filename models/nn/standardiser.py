"""Standardiser: scales the channels of a signal by statistics of the training data, which travel in the checkpoint."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Below this a channel counts as constant: its noise is not blown up to unit size.
MIN_STD = 1e-4


class Standardiser(nn.Module):
    """(x - mean) / std of signals [..., C]; `undo` is the inverse. The statistics are buffers, not parameters.

    Args:
        mean, std: [C] float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Values [..., C] in their own units, standardised."""
        return (x - self.mean) / self.std

    def undo(self, x: Tensor) -> Tensor:
        """Standardised values [..., C] in their own units."""
        return x.float() * self.std + self.mean


class Moments:
    """Sums from which the mean and the spread of rows with C channels follow; rows are added bit by bit.

    Args:
        num_channels: C.
    """

    def __init__(self, num_channels: int) -> None:
        self.num_rows = 0
        self._sum = np.zeros(num_channels)
        self._sum_of_squares = np.zeros(num_channels)

    def add(self, rows: NDArray[np.floating]) -> None:
        """Counts rows [n, C], all finite."""
        wide = rows.astype(np.float64)
        self.num_rows += len(wide)
        self._sum += wide.sum(axis=0)
        self._sum_of_squares += np.square(wide).sum(axis=0)

    def standardiser(self, is_std_shared: bool = False, is_centred: bool = True) -> Standardiser:
        """The standardiser of the rows seen so far.

        Args:
            is_std_shared: one standard deviation for all channels, the root mean square of theirs: distances between
                points keep their proportions.
            is_centred: False takes zero for the mean, and spread about zero for the standard deviation.
        """
        mean = self._sum / max(1, self.num_rows) * is_centred
        variance = np.maximum(self._sum_of_squares / max(1, self.num_rows) - np.square(mean), 0)
        if is_std_shared:
            variance = np.full_like(variance, variance.mean())
        std = np.maximum(np.sqrt(variance), MIN_STD)
        return Standardiser(torch.from_numpy(mean).float(), torch.from_numpy(std).float())
