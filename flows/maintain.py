"""Maintenance: garbage collection of every store, as a flow so that it can be scheduled and seen."""

from dataclasses import asdict, dataclass

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.reporting.logs import run_logger
from storage.errors import TalksetError
from storage.stores import known_stores
from tasks.store.gc import Collected, collect


@dataclass(frozen=True, slots=True)
class NotCollected:
    """Why a store could not be collected."""

    error: str


@flow(name="maintain", persist_result=False, result_serializer="json")
def maintain(
    keep: int = 10, grace_hours: float = 24.0, dry_run: bool = False, wait_s: float = 3600.0
) -> dict[str, Collected | NotCollected]:
    """Removes objects that no kept snapshot needs, in every store of $TALKSET_STORES.

    Args:
        keep: Newest snapshots to keep in each store; those that a training run is pinned to are kept besides.
        grace_hours: Younger objects stay.
        dry_run: Only report what would be removed.
        wait_s: Seconds to wait for a writer of a store.

    Returns:
        Store -> what was removed, or why it could not be.
    """
    answers: dict[str, Collected | NotCollected] = {}
    for store in known_stores():
        try:
            answers[store.name] = collect(store, keep, grace_hours, dry_run, wait_s)
        except TalksetError as error:
            run_logger().error("%s: %s", store, error)
            answers[store.name] = NotCollected(str(error))
    rows = [{"store": store, **asdict(answer)} for store, answer in answers.items()]
    if rows:
        create_table_artifact(rows, key="garbage", description="What was removed from each store")
    return answers
