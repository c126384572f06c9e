"""The steps as Prefect tasks: thin wrappers that name the run and pin the threads; the work is in `tasks`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.execution.dask_cluster import THREAD_VARIABLES
from flows.reporting.logs import run_logger, silence_console
from storage.catalog import Dataset
from storage.objects import ObjectStore
from storage.records import Source, StepResult

_OPTIONS = {"cache_policy": NO_CACHE, "persist_result": False, "result_serializer": "json"}


@task(task_run_name="{dataset.name}-cut-{shard_id}", **_OPTIONS)
def cut(shard_id: str, sources: Sequence[Source], dataset: Dataset, store: str) -> StepResult:
    """Decode, track and cut the sources of one shard."""
    from tasks.cut import cut_shard

    _settle()
    result = cut_shard(shard_id, sources, dataset, ObjectStore(Path(store)))
    _log(result)
    for source_id, error in result.failed.items():
        path = next(source.path for source in sources if source.source_id == source_id)
        run_logger().error("source %s failed and will be tried again: %s", path, error)
    return result


@task(task_run_name="{dataset.name}-{name}-{shard_id}", **_OPTIONS)
def extract(
    name: str, shard_id: str, cut_result: StepResult, needs: Mapping[str, StepResult], dataset: Dataset, store: str,
    subjects: Mapping[str, int],
) -> StepResult:  # fmt: skip
    """Run one extractor over one shard; nothing to do where the cut stored nothing."""
    from tasks.extract import extract_shard
    from tasks.shard_work import feature_params

    _settle()
    if not cut_result.key:
        return StepResult(name, shard_id, (), "", "", 0, 0, 0.0, False)
    keys = {need: result.key for need, result in needs.items()}
    # Numbered anew: without the sources that failed, the numbers must be those of a shard that never had them.
    order: dict[int, int] = {}
    groups = [order.setdefault(subjects[source_id], len(order)) for source_id in cut_result.source_ids]
    params = feature_params(dataset, name)
    result = extract_shard(name, params, cut_result, keys, groups, ObjectStore(Path(store)))
    _log(result)
    return result


def _log(result: StepResult) -> None:
    made = f"{result.num_bytes / 2**20:.2f} MiB in {result.seconds:.1f} s" if result.is_new else "was there already"
    run_logger().info(
        "%s of shard %s: %d sources, %d clips, %s", result.step, result.shard_id, len(result.source_ids),
        result.num_clips, made,
    )  # fmt: skip


def _settle() -> None:
    """One thread for every pool of this process, whoever started it, and no logs on the terminal of a local run."""
    import cv2

    if "TALKSET_QUIET" in os.environ:
        silence_console()
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    cv2.setNumThreads(1)
