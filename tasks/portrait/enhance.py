"""Enhancement: faces drawn finer and twice as large, by an installed package that offers it, else by GFPGAN's network.

A package offers it as an entry point of the group `talkset.enhancers`: a function of a device ('cpu', 'cuda:0') that
loads its weights there and returns an Enhancer. The one that comes with this needs the extra `enhance` and a file of
weights, which are large and not free to use everywhere: nothing is fetched here (see tasks.portrait.onnx_enhancer).
"""

from importlib.metadata import entry_points
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.portrait import onnx_enhancer

GROUP = "talkset.enhancers"


class Enhancer(Protocol):
    """Redraws one face at twice its size. Nothing is promised about how steady that is from frame to frame."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[S, S, 3] -> [2 S, 2 S, 3] uint8 RGB."""
        ...


def load_enhancer(device: str) -> Enhancer:
    """The enhancer of an installed package on a device, the first by name of several, else the one of this package.

    Raises:
        ConfigError: the extra `enhance` is not installed, or cannot use the device.
        WeightsError: its file is missing, damaged, or of another form.
    """
    offered = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return offered[0].load()(device) if offered else onnx_enhancer.load(device)
