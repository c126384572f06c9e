"""The answer of a refresh: one record, whether it computed for hours or found at once that nothing had changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from storage import snapshot as snapshots
from storage.records import State
from storage.snapshot import Snapshot
from tasks.store.diff import diff_snapshots

if TYPE_CHECKING:
    from flows.pipeline.start_training import TrainingStart


@dataclass(frozen=True, slots=True)
class RefreshOutcome:
    """What a refresh did; plain values.

    Attributes:
        status: 'partial' when sources failed, else 'done' or, without a new snapshot, 'unchanged'.
        dataset, store: the dataset's name and the folder of its store.
        number, id: the snapshot that is now the latest.
        is_new: this refresh has published it.
        steps_computed: steps of shards that were not in the store.
        counts, splits: see storage.snapshot.SnapshotBody.
        skipped_features: extractor -> why it did not run.
        failed: path -> error of every failed source.
        changes: 'added', 'changed', 'renamed' and 'removed' sources since the parent; empty without a new snapshot.
        training: system -> what the gate decided and started; only with --train.
        seconds: wall time of the command.
    """

    status: Literal["done", "partial", "unchanged"]
    dataset: str
    store: str
    number: int
    id: str
    is_new: bool
    steps_computed: int
    counts: Mapping[str, Any]
    splits: Mapping[str, int]
    skipped_features: Mapping[str, str]
    failed: Mapping[str, str]
    changes: Mapping[str, list[str]]
    training: Mapping[str, "TrainingStart"] | None = None
    seconds: float | None = None


def outcome(snapshot: Snapshot, is_new: bool, num_steps: int) -> RefreshOutcome:
    """The answer of a refresh that ended with this snapshot."""
    body, failed = snapshot.body, failed_sources(snapshot)
    return RefreshOutcome(
        status="partial" if failed else ("done" if is_new else "unchanged"),
        dataset=body.dataset,
        store=str(snapshot.store),
        number=body.number,
        id=snapshot.id,
        is_new=is_new,
        steps_computed=num_steps,
        counts=body.counts,
        splits=body.splits,
        skipped_features=body.skipped_features,
        failed=failed,
        changes=_changes(snapshot) if is_new else {},
    )


def failed_sources(snapshot: Snapshot) -> dict[str, str]:
    """Path -> error of every failed source, also of those that could not even be read for the inventory."""
    return {row["path"]: row["detail"] for row in snapshot.source_table.to_pylist() if row["state"] == State.FAILED}


def _changes(snapshot: Snapshot) -> dict[str, list[str]]:
    """Sources added, changed, renamed and removed since the parent, if that is still there."""
    number = snapshot.body.number - 1
    if number not in snapshots.snapshot_numbers(snapshot.store):
        return {}
    sources = diff_snapshots(Snapshot.open(snapshot.store, number), snapshot).sources
    renamed = [f"{pair.from_} -> {pair.to}" for pair in sources.renamed]
    return {"added": [*sources.added], "changed": [*sources.changed], "renamed": renamed, "removed": [*sources.removed]}
