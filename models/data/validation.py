"""validation_set: the data of split 'val', where there are any."""

from collections.abc import Callable
from typing import TypeVar

from storage.errors import ConfigError

T = TypeVar("T")


def validation_set(make: Callable[[], T]) -> T | None:
    """What `make` gives; None where nothing in 'val' fits, which is no reason not to train.

    Make the training set of the same settings first: what is wrong with them is then told and not hidden here.
    """
    try:
        return make()
    except ConfigError:
        return None
