"""Enhancement: faces drawn finer and twice as large, by whichever installed package offers that; none comes with this.

A package offers it as an entry point of the group `talkset.enhancers`: a function of a device ('cpu', 'cuda:0') that
loads its weights there and returns an Enhancer. Restoration networks are large and their weights not free to use
everywhere, so nothing is fetched here.
"""

from importlib.metadata import entry_points
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError

GROUP = "talkset.enhancers"


class Enhancer(Protocol):
    """Redraws one face at twice its size."""

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[S, S, 3] -> [2 S, 2 S, 3] uint8 RGB."""
        ...


def load_enhancer(device: str) -> Enhancer:
    """The installed enhancer on a device, the first by name of several.

    Raises:
        ConfigError: none is installed.
    """
    offered = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if not offered:
        raise ConfigError(
            f"no face enhancer is installed: install a package that offers an entry point {GROUP!r}, or go without"
        )
    return offered[0].load()(device)
