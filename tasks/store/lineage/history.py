"""History: what a store still knows of its past: snapshots, those that were collected, runs, and what came of what."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.runs import Checkpoint, Parent, RunRecord, list_runs
from storage.snapshot import CLIPS_TABLE, SOURCES_TABLE, Snapshot, snapshot_numbers, store_dataset
from storage.tables import read_table
from storage.takedowns import Takedowns, load_takedowns

_SOURCE_COLUMNS = (
    "path", "path_hex", "name", "source_id", "subject", "sha256", "audio_sha256", "state", "reason", "detail",
)  # fmt: skip
_CLIP_COLUMNS = ("name", "clip", "source_id", "split", "is_kept")


@dataclass(frozen=True, slots=True)
class History:
    """A store's past, read once.

    Attributes:
        store: its folder.
        dataset: what it holds.
        snapshots: number -> snapshot whose file exists, ascending.
        gone: number -> id of snapshots that were collected, ascending; '' where nothing remembers the id.
        runs: id -> record, by the start of the last session.
        takedowns: what was withdrawn.
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


def origins(run: RunRecord) -> dict[str, Parent]:
    """What a run started from: stage -> its model, and 'continued' -> the training state it went on from, if any."""
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
    return History(store, dataset, snapshots, _gone(snapshots, runs), runs, load_takedowns(store))


def _gone(snapshots: Mapping[int, Snapshot], runs: Mapping[str, RunRecord]) -> dict[int, str]:
    ids = {number - 1: found.body.parent for number, found in snapshots.items() if found.body.parent}
    for run in runs.values():
        for back, snapshot_id in enumerate((run.key.snapshot, *run.ancestors)):
            ids[run.snapshot_number - back] = snapshot_id
    last = max((*snapshots, *ids), default=0)
    return {number: ids.get(number, "") for number in range(1, last + 1) if number not in snapshots}


def source_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What lineage needs of a snapshot's sources.parquet."""
    path = snapshot.objects.path(snapshot.body.tables.key)
    return read_table(path / SOURCES_TABLE, _SOURCE_COLUMNS).to_pylist()


def kept_clips(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What lineage needs of the kept clips of a snapshot's clips.parquet."""
    path = snapshot.objects.path(snapshot.body.tables.key)
    return [row for row in read_table(path / CLIPS_TABLE, _CLIP_COLUMNS).to_pylist() if row["is_kept"]]


def spread(history: History, first: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Where data went from the runs that saw them.

    Args:
        history: of the store.
        first: run id -> splits of its own snapshot in which it had the data; none empty.

    Returns:
        The same for these and for every run that started from a checkpoint of one, however far down the line.
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
    return found


def run_lines(history: History, first: Mapping[str, frozenset[str]]) -> list[dict[str, Any]]:
    """The runs of `spread(history, first)`, oldest first.

    Each is `run_line` with 'splits' in which it or one of its parents had the data, 'is_trained_on' (the training split
    is one of them), 'is_direct' (it had them itself) and 'through' (the parents it has them from, by run id).
    """
    found = spread(history, first)
    return [
        run_line(history, run)
        | {
            "splits": sorted(found[run.id]),
            "is_trained_on": "train" in found[run.id],
            "is_direct": run.id in first,
            "through": sorted(parent.id for parent in history.parents_of(run) if parent.id in found),
        }
        for run in history.runs.values()
        if run.id in found
    ]


def run_line(history: History, run: RunRecord) -> dict[str, Any]:
    """A run in short: what it is, what it trained on, and its checkpoints."""
    return {
        "run": run.id, "system": run.key.system, "stage": run.key.stage, "preset": run.preset, "state": run.state,
        "snapshot": run.snapshot_number, "snapshot_id": run.key.snapshot,
        "is_snapshot_gone": history.snapshot_of(run) is None,
        "checkpoints": [checkpoint_line(checkpoint) for checkpoint in run.checkpoints],
    }  # fmt: skip


def checkpoint_line(checkpoint: Checkpoint) -> dict[str, Any]:
    """One file of a run, without its size."""
    return checkpoint.model_dump(mode="json", exclude={"num_bytes"})


def unknown_runs(history: History, why: Mapping[str, str], known: Collection[str]) -> list[dict[str, str]]:
    """Runs of which nobody can tell any more whether certain data reached them: {'run', 'why'}.

    Args:
        history: of the store.
        why: run id -> reason, from `lost_snapshots` and `lost_parents`; whoever started from these is unknown as well.
        known: runs that the data reached for sure; left out.
    """
    doubtful = spread(history, {run_id: frozenset({"unknown"}) for run_id in why})
    return [
        {"run": run_id, "why": why.get(run_id, "one of its parents is unknown")}
        for run_id in history.runs
        if run_id in doubtful and run_id not in known
    ]


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


def gone_lines(history: History) -> list[dict[str, Any]]:
    """Snapshots that were collected: {'number', 'id'}."""
    return [{"number": number, "id": snapshot_id} for number, snapshot_id in history.gone.items()]
