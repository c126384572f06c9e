"""Seeds derived from several numbers, so that what is random depends on where a training is, not on its history."""

import numpy as np


def derived_seed(*numbers: int) -> int:
    """A seed of 63 bits; different numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
