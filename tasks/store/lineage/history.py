"""History: a store's snapshots, those that were collected, its runs, and which run started from which."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from storage.runs import Checkpoint, Parent, RunRecord, list_runs
from storage.snapshot import CLIPS_TABLE, Snapshot, snapshot_numbers, store_dataset
from storage.store_layout import pins_folder
from storage.tables import read_table
from storage.takedowns import Takedowns, load_takedowns

_CLIP_COLUMNS = ("name", "clip", "source_id", "split", "is_kept")


@dataclass(frozen=True, slots=True)
class GoneSnapshot:
    """A snapshot that was collected.

    Attributes:
        number: Its place in the line.
        id: Its id, '' when no later snapshot and no run records it.
    """

    number: int
    id: str


@dataclass(frozen=True, slots=True)
class History:
    """A store's past, read once.

    Attributes:
        store: The folder of the store.
        dataset: The block of datasets.yaml it belongs to.
        snapshots: Number -> snapshot whose file exists, ascending.
        gone: Number -> id of the collected snapshots, ascending; '' where no record has the id.
        runs: Id -> record, by the start of the last session.
        takedowns: The sources that were withdrawn.
    """

    store: Path
    dataset: str
    snapshots: Mapping[int, Snapshot]
    gone: Mapping[int, str]
    runs: Mapping[str, RunRecord]
    takedowns: Takedowns

    def snapshot_of(self, run: RunRecord) -> Snapshot | None:
        """The snapshot a run trained on, None when it was collected."""
        return next((found for found in self.snapshots.values() if found.id == run.key.snapshot), None)

    def run_of(self, parent: Parent) -> RunRecord | None:
        """The run whose checkpoint another one started from; any run with that very file will do."""
        with_file = (run for run in self.runs.values() if any(parent.sha256 == c.sha256 for c in run.checkpoints))
        return self.runs.get(parent.run) or next(with_file, None)

    def parents_of(self, run: RunRecord) -> list[RunRecord]:
        """The runs that `run` started from, as far as they are recorded here."""
        return [found for parent in origins(run).values() if (found := self.run_of(parent))]

    def pins_of(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Names of the pins (run ids) for which gc keeps a snapshot."""
        pins = sorted(path for path in pins_folder(self.store).glob("*") if path.is_file())
        return tuple(path.name for path in pins if path.read_text(encoding="utf-8").strip() == snapshot.id)

    def gone_snapshots(self) -> tuple[GoneSnapshot, ...]:
        """The snapshots that were collected."""
        return tuple(GoneSnapshot(number, snapshot_id) for number, snapshot_id in self.gone.items())


@dataclass(frozen=True, slots=True)
class CheckpointLine:
    """One file of a run; see storage.runs.Checkpoint."""

    file: str
    kind: Literal["state", "model"]
    step: int
    sha256: str

    @staticmethod
    def of(checkpoint: Checkpoint) -> "CheckpointLine":
        """The line of a recorded checkpoint."""
        return CheckpointLine(checkpoint.file, checkpoint.kind, checkpoint.step, checkpoint.sha256)


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in short.

    Attributes:
        run: The id of the run.
        system, stage, preset, state: See storage.runs.RunRecord.
        snapshot, snapshot_id: The number and the id of the snapshot it trained on.
        is_snapshot_gone: True when that snapshot was collected.
        checkpoints: The files of the run.
    """

    run: str
    system: str
    stage: str
    preset: str
    state: str
    snapshot: int
    snapshot_id: str
    is_snapshot_gone: bool
    checkpoints: tuple[CheckpointLine, ...]


@dataclass(frozen=True, slots=True)
class ReachedRun(RunLine):
    """A run that certain data reached.

    Attributes:
        is_direct: True when they are in its own snapshot.
        through: The ids of the parents it has them from.
    """

    is_direct: bool
    through: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnknownRun:
    """A run of which no record says any more whether certain data reached it.

    Attributes:
        run: The id of the run.
        why: The record that is missing.
    """

    run: str
    why: str


Line = TypeVar("Line", bound=RunLine)


def run_line(kind: type[Line], history: History, run: RunRecord, **more: Any) -> Line:
    """A run as a RunLine, or as the kind of RunLine that has the fields `more` besides."""
    return kind(
        run=run.id, system=run.key.system, stage=run.key.stage, preset=run.preset, state=run.state,
        snapshot=run.snapshot_number, snapshot_id=run.key.snapshot,
        is_snapshot_gone=history.snapshot_of(run) is None,
        checkpoints=tuple(map(CheckpointLine.of, run.checkpoints)), **more,
    )  # fmt: skip


def origins(run: RunRecord) -> dict[str, Parent]:
    """The starting points of a run: stage -> its model, and 'continued' -> a training state that it resumed."""
    start = run.key.continued_from
    return run.key.parents | ({"continued": Parent(run=start.run, sha256=start.sha256)} if start else {})


def read_history(store: Path) -> History:
    """Reads snapshots and run records, no tables.

    Raises:
        ConfigError: the folder is no store.
        StoreCorrupt: a snapshot, a run record or the list of takedowns is damaged.
    """
    dataset = store_dataset(store)
    snapshots = {number: Snapshot.open(store, number) for number in snapshot_numbers(store)}
    runs = {run.id: run for run in list_runs(store)}
    ids = {number - 1: found.body.parent for number, found in snapshots.items() if found.body.parent}
    for run in runs.values():
        for back, snapshot_id in enumerate((run.key.snapshot, *run.ancestors)):
            ids[run.snapshot_number - back] = snapshot_id
    last = max((*snapshots, *ids), default=0)
    gone = {number: ids.get(number, "") for number in range(1, last + 1) if number not in snapshots}
    return History(store, dataset, snapshots, gone, runs, load_takedowns(store))


def kept_clips(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The columns of a snapshot's clips.parquet that lineage needs, one mapping per kept clip."""
    path = snapshot.objects.path(snapshot.body.tables.key)
    return [row for row in read_table(path / CLIPS_TABLE, _CLIP_COLUMNS).to_pylist() if row["is_kept"]]


def spread(history: History, first: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Follows data from the runs that had them to all runs that descend from these.

    Args:
        history: The history of the store.
        first: Run id -> splits of its own snapshot in which it had the data; none empty.

    Returns:
        The same for these and for every run that started from a checkpoint of one, however far down the line, oldest
        first.
    """
    found = dict(first)
    is_growing = True
    while is_growing:
        is_growing = False
        for run in history.runs.values():
            before = found.get(run.id, frozenset())
            after = before.union(*(found.get(parent.id, before) for parent in history.parents_of(run)))
            if after != before:
                found[run.id] = after
                is_growing = True
    return {run_id: found[run_id] for run_id in history.runs if run_id in found}


def through(history: History, run: RunRecord, reached: Collection[str]) -> tuple[str, ...]:
    """Ids of those parents of a run that are among the `reached` ones."""
    return tuple(sorted(parent.id for parent in history.parents_of(run) if parent.id in reached))


def unknown_runs(history: History, why: Mapping[str, str], known: Collection[str]) -> tuple[UnknownRun, ...]:
    """Runs of which no record says any more whether certain data reached them.

    Args:
        history: The history of the store.
        why: Run id -> reason, from `lost_snapshots` and `lost_parents`; every run that started from these is unknown as
            well.
        known: The runs that the data reached for sure; left out.
    """
    doubtful = spread(history, {run_id: frozenset({"unknown"}) for run_id in why})
    return tuple(
        UnknownRun(run_id, why.get(run_id, "one of its parents is unknown"))
        for run_id in doubtful
        if run_id not in known
    )


def lost_snapshots(history: History) -> dict[str, str]:
    """Runs whose snapshot was collected, with that reason."""
    runs = history.runs.values()
    return {run.id: f"its snapshot {run.snapshot_number} is gone" for run in runs if history.snapshot_of(run) is None}


def lost_parents(history: History) -> dict[str, str]:
    """Runs that started from a run whose record is not in this store, with that reason."""
    return {
        run.id: f"its parent {parent.run} is not recorded here"
        for run in history.runs.values()
        for parent in origins(run).values()
        if history.run_of(parent) is None
    }
