"""Enhancement: faces drawn finer and twice as large, by whichever installed package offers that; none comes with this.

A package offers it as an entry point of the group `talkset.enhancers`: a function without arguments that loads its
weights and returns an Enhancer. Restoration networks are large and their weights not free to use everywhere, so nothing
is fetched here.
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


def load_enhancer() -> Enhancer:
    """The installed enhancer, the first by name of several.

    Raises:
        ConfigError: none is installed.
    """
    offered = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if not offered:
        raise ConfigError(
            f"no face enhancer is installed: install a package that offers an entry point {GROUP!r}, or go without"
        )
    return offered[0].load()()
