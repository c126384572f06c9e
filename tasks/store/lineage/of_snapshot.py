"""Lineage of a snapshot: its parents, its sources, and the runs made from it."""

from typing import Any

from storage.records import State
from storage.snapshot import Snapshot
from tasks.store.lineage.history import History, lost_parents, run_lines, source_rows, unknown_runs
from tasks.store.lineage.names import Match, is_digits


def match_snapshots(history: History, name: str) -> list[Match]:
    """What `name` can mean: 'latest', a number, or the first digits (6 or more) of an id; also of collected ones."""
    if name == "latest":
        return [Match("snapshot", True, "the latest snapshot", number) for number in [*history.snapshots][-1:]]
    ids = dict(history.gone) | {number: snapshot.id for number, snapshot in history.snapshots.items()}
    found = []
    for number, snapshot_id in sorted(ids.items()):
        is_exact = name in (str(number), f"{number:06d}", snapshot_id)
        if is_exact or (is_digits(name) and snapshot_id.startswith(name)):
            found.append(Match("snapshot", is_exact, f"snapshot {number} (id {snapshot_id[:12]})", number))
    return found


def snapshot_lineage(history: History, number: int) -> dict[str, Any]:
    """What a snapshot came from and what came of it.

    Returns:
        'number', 'id' ('' when nothing remembers it), 'dataset', 'is_gone', 'is_latest', 'created_at';
        'parents': nearest first, each with 'number', 'id', 'is_gone';
        'sources': state -> [{'path', 'source_id', 'sha256', 'subject', 'reason', 'detail', 'is_taken_down'}], empty
        when the snapshot is gone; 'splits': split -> number of kept clips;
        'runs': made from it, directly or through parents, see `run_lines`;
        'unknown_runs': of which nobody can tell, see `unknown_runs`.
    """
    snapshot = history.snapshots.get(number)
    snapshot_id = snapshot.id if snapshot else history.gone[number]
    first = {run.id: frozenset({"data"}) for run in history.runs.values() if run.key.snapshot == snapshot_id}
    runs = [_without_splits(line) for line in run_lines(history, first)]
    return {
        "number": number,
        "id": snapshot_id,
        "dataset": history.dataset,
        "is_gone": snapshot is None,
        "is_latest": number == max((*history.snapshots, *history.gone)),
        "created_at": snapshot.created_at if snapshot else "",
        "parents": parents_of(history, number),
        "sources": _sources(history, snapshot) if snapshot else {},
        "splits": snapshot.body.splits if snapshot else {},
        "runs": runs,
        # Which snapshot a run was made from its own record always tells.
        "unknown_runs": unknown_runs(history, lost_parents(history), [line["run"] for line in runs]),
    }


def parents_of(history: History, number: int) -> list[dict[str, Any]]:
    """The snapshots before this one, nearest first: 'number', 'id', 'is_gone'."""
    return [
        {"number": n, "id": history.snapshots[n].id if n in history.snapshots else history.gone[n],
         "is_gone": n not in history.snapshots}
        for n in range(number - 1, 0, -1)
    ]  # fmt: skip


def _sources(history: History, snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    columns = ("path", "source_id", "sha256", "subject", "reason", "detail")
    found: dict[str, list[dict[str, Any]]] = {state.value: [] for state in State}
    for row in source_rows(snapshot):
        is_taken_down = history.takedowns.of(row["sha256"], row["source_id"]) is not None
        found[row["state"]].append({name: row[name] for name in columns} | {"is_taken_down": is_taken_down})
    return found


def _without_splits(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("splits", "is_trained_on")}
