"""EarlyStop: whether a figure still falls, as state that a checkpoint holds."""

import torch
from torch import Tensor, nn


class EarlyStop(nn.Module):
    """Keeps account of a figure that is to fall.

    Args:
        patience: checks without a new lowest figure until it is over.

    Attributes:
        best: [] float64, lowest figure so far.
        num_worse: [] int64, checks since then.
    """

    best: Tensor
    num_worse: Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("best", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("num_worse", torch.zeros((), dtype=torch.int64))

    @property
    def has_begun(self) -> bool:
        """Whether there was a check."""
        return bool(torch.isfinite(self.best))

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return int(self.num_worse) >= self.patience

    def note(self, figure: float) -> bool:
        """Takes in the figure of a check; whether it is the lowest so far."""
        is_best = figure < float(self.best)
        self.num_worse.fill_(0 if is_best else int(self.num_worse) + 1)
        if is_best:
            self.best.fill_(figure)
        return is_best
