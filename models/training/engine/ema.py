"""Averaged weights: a copy of a module that follows it as an exponential moving average (EMA)."""

import copy

import torch
from torch import nn


def averaged_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients, equal to the module so far."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """average = d * average + (1 - d) * module for weights, with d = min(decay, (1 + step) / (10 + step)).

    Buffers are copied: running statistics are averages already, others must not be mixed.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for mean, weight in zip(average.parameters(), module.parameters(), strict=True):
        mean.lerp_(weight.to(mean.dtype), share)
    for mean, buffer in zip(average.buffers(), module.buffers(), strict=True):
        mean.copy_(buffer)
