"""Status: what a store holds and who is writing to it."""

import json
import socket
from pathlib import Path
from typing import Any

import psutil

from storage.objects import ObjectStore
from storage.snapshot import Snapshot, snapshot_numbers, store_dataset


def store_status(store: Path) -> dict[str, Any]:
    """Dataset, snapshots (newest last), number and bytes of objects, the process that writes (None: nobody).

    Raises:
        ConfigError: the folder is no store.
    """
    dataset = store_dataset(store)
    objects = ObjectStore(store)
    keys = list(objects.keys())
    return {
        "store": str(store),
        "dataset": dataset,
        "objects": len(keys),
        "bytes": sum(objects.manifest(key).ref().num_bytes for key in keys),
        "writer": _writer(store),
        "snapshots": [_line(Snapshot.open(store, number)) for number in snapshot_numbers(store)],
    }


def _line(snapshot: Snapshot) -> dict[str, Any]:
    counts = snapshot.body.counts
    return {
        "number": snapshot.body.number, "id": snapshot.id, "created_at": snapshot.created_at,
        "kept": counts["clips"]["kept"], "expected": counts["clips"]["expected"], "hours": counts["hours_kept"],
        "sources": counts["sources"], "splits": snapshot.body.splits,
    }  # fmt: skip


def _writer(store: Path) -> dict[str, Any] | None:
    try:
        writer = json.loads((store / "writer.json").read_bytes())
        is_here = writer["host"] == socket.gethostname()
        # One that was killed outright cannot take its name off; the kernel has freed its lock.
        return None if is_here and not psutil.pid_exists(writer["pid"]) else writer
    except (OSError, ValueError, KeyError, TypeError):
        return None
