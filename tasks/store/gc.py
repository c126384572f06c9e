"""Garbage collection: remove objects that no kept snapshot needs."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from storage.errors import StoreCorrupt
from storage.lock import writer_lock
from storage.objects import ObjectStore
from storage.snapshot import Snapshot, snapshot_numbers


@dataclass(frozen=True, slots=True)
class Garbage:
    """Objects that can go.

    Attributes:
        keys: of objects no kept snapshot reaches, older than the grace period.
        num_bytes: what they take.
        num_young: unreachable ones that are too young to remove.
        snapshots: numbers that are not kept.
    """

    keys: tuple[str, ...]
    num_bytes: int
    num_young: int
    snapshots: tuple[int, ...]


def collect(store: Path, keep: int, grace_hours: float, is_dry: bool, wait_s: float = 0.0) -> dict[str, Any]:
    """Removes what no kept snapshot needs, or with `is_dry` only says what would go; see find_garbage.

    Raises:
        LockedError: another process writes to the store.
    """
    with writer_lock(store, wait_s):
        garbage = find_garbage(store, keep, grace_hours)
        if not is_dry:
            remove_garbage(store, garbage)
    return {"removed": not is_dry, "objects": len(garbage.keys), "bytes": garbage.num_bytes,
            "too_young": garbage.num_young, "snapshots": list(garbage.snapshots)}  # fmt: skip


def find_garbage(store: Path, keep: int, grace_hours: float) -> Garbage:
    """What a collection would remove.

    Args:
        store: its folder.
        keep: newest snapshots to keep; pinned ones (a file pins/<anything> holding the id) are kept besides.
        grace_hours: younger objects stay, a running refresh may be about to publish them.
    """
    numbers = snapshot_numbers(store)
    snapshots = {number: Snapshot.open(store, number) for number in numbers}
    pinned = _pinned(store)
    kept = [snapshots[n] for n in numbers if n in numbers[-max(1, keep) :] or snapshots[n].id in pinned]
    reachable = {ref.key for snapshot in kept for ref in snapshot.body.objects()}
    keys, num_bytes, num_young = _unreachable(ObjectStore(store), reachable, timedelta(hours=grace_hours))
    gone = tuple(n for n in numbers if snapshots[n] not in kept)
    return Garbage(tuple(keys), num_bytes, num_young, gone)


def remove_garbage(store: Path, garbage: Garbage) -> None:
    """Removes what `find_garbage` found; hold the writer lock. Snapshot files go first: none may point at a hole."""
    for number in garbage.snapshots:
        (store / "snapshots" / f"{number:06d}.json").unlink(missing_ok=True)
        # Its report shows frames, which must not outlive it.
        shutil.rmtree(store / "reports" / f"{number:06d}", ignore_errors=True)
    objects = ObjectStore(store)
    for key in garbage.keys:
        objects.delete(key)


def _pinned(store: Path) -> set[str]:
    return {path.read_text(encoding="utf-8").strip() for path in (store / "pins").glob("*") if path.is_file()}


def _unreachable(objects: ObjectStore, reachable: Iterable[str], grace: timedelta) -> tuple[list[str], int, int]:
    keep = set(reachable)
    keys, num_bytes, num_young = [], 0, 0
    for key in objects.keys():  # noqa: SIM118 - a store, not a mapping
        if key in keep:
            continue
        try:
            manifest = objects.manifest(key)
            is_young = datetime.now(UTC) - datetime.fromisoformat(manifest.committed_at) < grace
            size = manifest.ref().num_bytes
        except StoreCorrupt:
            is_young, size = False, 0
        if is_young:
            num_young += 1
        else:
            keys.append(key)
            num_bytes += size
    return keys, num_bytes, num_young
