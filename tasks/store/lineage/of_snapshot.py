"""Lineage of a snapshot: its parents, its sources, and the runs made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from storage.records import State
from storage.store_layout import snapshot_digits
from storage.takedowns import Takedowns
from tasks.store.lineage.history import (
    GoneSnapshot,
    History,
    ReachedRun,
    UnknownRun,
    lost_parents,
    run_line,
    spread,
    through,
    unknown_runs,
)
from tasks.store.names import Match, is_digits, source_rows


@dataclass(frozen=True, slots=True)
class ParentSnapshot:
    """A snapshot before another one.

    Attributes:
        number, id: See storage.snapshot; the id is '' when nothing records it.
        is_gone: True when it was collected.
    """

    number: int
    id: str
    is_gone: bool


@dataclass(frozen=True, slots=True)
class ListedSource:
    """A source of a snapshot: columns of sources.parquet, and whether it is taken down by now."""

    path: str
    source_id: str
    sha256: str
    subject: str
    reason: str
    detail: str
    is_taken_down: bool

    @staticmethod
    def of(row: Mapping[str, str], takedowns: Takedowns) -> "ListedSource":
        """The source of a row of sources.parquet."""
        return ListedSource(
            path=row["path"], source_id=row["source_id"], sha256=row["sha256"], subject=row["subject"],
            reason=row["reason"], detail=row["detail"],
            is_taken_down=takedowns.of(row["sha256"], row["source_id"]) is not None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SnapshotLineage:
    """The origin of a snapshot, and everything that was made of it.

    Attributes:
        name, kind: The name that was asked for, and the kind of thing that it means.
        number, id, dataset, created_at: See storage.snapshot; id and time are '' when nothing records them.
        is_gone: True when it was collected.
        is_latest: True when no later one is known.
        parents: The snapshots before it, nearest first.
        sources: State -> sources; empty when the snapshot is gone.
        splits: Split -> number of kept clips.
        runs: The runs made from it, directly or through parents, oldest first.
        unknown_runs: The runs of which no record says whether they were.
        gone: The collected snapshots; what only they recorded is not in the answer.
    """

    name: str
    kind: Literal["snapshot"]
    number: int
    id: str
    dataset: str
    is_gone: bool
    is_latest: bool
    created_at: str
    parents: tuple[ParentSnapshot, ...]
    sources: Mapping[str, tuple[ListedSource, ...]]
    splits: Mapping[str, int]
    runs: tuple[ReachedRun, ...]
    unknown_runs: tuple[UnknownRun, ...]
    gone: tuple[GoneSnapshot, ...]


def match_snapshots(history: History, name: str) -> list[Match[int]]:
    """The snapshots, also collected ones, that `name` can mean: 'latest', a number, or 6 or more digits of an id."""
    if name == "latest":
        return [Match(number, True, "the latest snapshot") for number in [*history.snapshots][-1:]]
    ids = dict(history.gone) | {number: snapshot.id for number, snapshot in history.snapshots.items()}
    found = []
    for number, snapshot_id in sorted(ids.items()):
        is_whole = name in (str(number), snapshot_digits(number), snapshot_id)
        if is_whole or (is_digits(name) and snapshot_id.startswith(name)):
            found.append(Match(number, is_whole, f"snapshot {number} (id {snapshot_id[:12]})"))
    return found


def snapshot_lineage(history: History, name: str, number: int) -> SnapshotLineage:
    """The lineage of the snapshot of this number; `name` is the name that was asked for."""
    snapshot = history.snapshots.get(number)
    snapshot_id = snapshot.id if snapshot else history.gone[number]
    first = {run.id: frozenset({"data"}) for run in history.runs.values() if run.key.snapshot == snapshot_id}
    reached = spread(history, first)
    sources: dict[str, list[ListedSource]] = {state.value: [] for state in State} if snapshot else {}
    for row in source_rows(snapshot) if snapshot else ():
        sources[row["state"]].append(ListedSource.of(row, history.takedowns))
    return SnapshotLineage(
        name=name,
        kind="snapshot",
        number=number,
        id=snapshot_id,
        dataset=history.dataset,
        is_gone=snapshot is None,
        is_latest=number == max((*history.snapshots, *history.gone)),
        created_at=snapshot.created_at if snapshot else "",
        parents=parents_of(history, number),
        sources={state: tuple(found) for state, found in sources.items()},
        splits=snapshot.body.splits if snapshot else {},
        runs=tuple(
            run_line(ReachedRun, history, run, is_direct=run.id in first, through=through(history, run, reached))
            for run in map(history.runs.__getitem__, reached)
        ),
        # The snapshot of a run is always in its own record.
        unknown_runs=unknown_runs(history, lost_parents(history), reached),
        gone=history.gone_snapshots(),
    )


def parents_of(history: History, number: int) -> tuple[ParentSnapshot, ...]:
    """The snapshots before this one, nearest first."""
    kept = history.snapshots
    return tuple(
        ParentSnapshot(n, kept[n].id if n in kept else history.gone[n], n not in kept)
        for n in range(number - 1, 0, -1)
    )  # fmt: skip
