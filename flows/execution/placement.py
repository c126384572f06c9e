"""Where and when a step runs on the cluster: what it needs of a worker, and what goes first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dask

# Cuts are the longest steps and everything waits for them: started first, the short extractors are left to fill the
# end, when there is no longer a whole shard for every worker.
_CUT_PRIORITY = 1


@contextmanager
def placement(step: str, resources: Mapping[str, float] | None = None) -> Iterator[None]:
    """Tasks submitted inside the block are placed as `step` wants to be.

    Args:
        step: 'cut', or an extractor's name.
        resources: what a worker must have been started with, such as {"GPU": 1}; None is any worker.
    """
    wishes: dict[str, object] = {"priority": _CUT_PRIORITY if step == "cut" else 0}
    if resources:
        wishes["resources"] = dict(resources)
    with dask.annotate(**wishes):  # pyright: ignore[reportPrivateImportUsage]
        yield
