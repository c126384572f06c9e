"""The steps as Prefect tasks: thin covers that name the run and pin the threads; the work is in `tasks`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.logs import silence_console
from storage.catalog import Dataset
from storage.objects import ObjectStore
from storage.records import Source, StepResult

# One thread per process: Dask runs as many processes as there are cores to use.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip

_OPTIONS = {"cache_policy": NO_CACHE, "persist_result": False}


@task(task_run_name="cut-{shard_id}", **_OPTIONS)
def cut(shard_id: str, sources: Sequence[Source], dataset: Dataset, store: str) -> StepResult:
    """Decode, track and cut the sources of one shard."""
    from tasks.cut import cut_shard

    _settle()
    return cut_shard(shard_id, sources, dataset, ObjectStore(Path(store)))


@task(task_run_name="{name}-{shard_id}", **_OPTIONS)
def extract(
    name: str, shard_id: str, cut_result: StepResult, needs: Mapping[str, StepResult], dataset: Dataset, store: str,
    subjects: Mapping[str, int],
) -> StepResult:  # fmt: skip
    """Run one extractor over one shard; nothing to do where the cut stored nothing."""
    from tasks.extract import extract_shard
    from tasks.pending import feature_params

    _settle()
    if not cut_result.key:
        return StepResult(name, shard_id, (), "", "", 0, 0, 0.0, False)
    keys = {need: result.key for need, result in needs.items()}
    # Numbered anew: without the sources that failed, the numbers must be those of a shard that never had them.
    order: dict[int, int] = {}
    groups = [order.setdefault(subjects[source_id], len(order)) for source_id in cut_result.source_ids]
    params = feature_params(dataset, name)
    return extract_shard(name, params, shard_id, cut_result, keys, groups, ObjectStore(Path(store)))


def _settle() -> None:
    """One thread for every pool of this process, whoever started it, and no logs on the terminal of a local run."""
    import cv2

    if "TALKSET_QUIET" in os.environ:
        silence_console()
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    cv2.setNumThreads(1)
