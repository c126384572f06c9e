"""Options of a refresh, as the command, a deployment and the flow hand them on."""

from pathlib import Path

from pydantic import BaseModel


class RefreshOptions(BaseModel):
    """Options of a refresh.

    Attributes:
        dataset: name of its block in datasets.yaml.
        store: folder of the dataset's store.
        catalog: another datasets.yaml.
        workers, scheduler, worker_memory: see flows.execution.dask_cluster.make_runner.
        limit: at most this many sources that are new since the parent snapshot.
        retry_failed: leave new sources aside, work on those that failed in the last run.
        wait_s: how long to wait for another writer.
        has_server: False does the work without Prefect.
        is_quiet: no progress on the terminal.
    """

    dataset: str
    store: Path
    catalog: Path | None = None
    workers: int | None = None
    scheduler: str | None = None
    worker_memory: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    wait_s: float = 0.0
    has_server: bool = True
    is_quiet: bool = True
