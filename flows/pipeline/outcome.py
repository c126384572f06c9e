"""What a refresh answers: one shape, whether it worked for hours or saw at once that nothing had changed."""

from collections.abc import Mapping
from typing import Any

from storage import snapshot as snapshots
from storage.records import State
from storage.snapshot import Snapshot
from tasks.store.diff import diff_snapshots


def outcome(snapshot: Snapshot, is_new: bool, num_steps: int, skipped: Mapping[str, str]) -> dict[str, Any]:
    """Plain values: status ('done', 'partial' or 'unchanged'), the snapshot, counts, what changed since its parent."""
    body, failed = snapshot.body, failed_sources(snapshot)
    return {
        "status": "partial" if failed else ("done" if is_new else "unchanged"),
        "dataset": body.dataset, "store": str(snapshot.store), "number": body.number, "id": snapshot.id,
        "is_new": is_new, "steps_computed": num_steps, "counts": body.counts, "splits": body.splits,
        "skipped_features": dict(skipped), "failed": failed, "changes": _changes(snapshot) if is_new else {},
    }  # fmt: skip


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
