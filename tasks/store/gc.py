"""Garbage collection: remove objects that no kept snapshot needs."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.errors import StoreCorrupt
from storage.lock import writer_lock
from storage.objects import ObjectStore
from storage.snapshot import Snapshot, snapshot_numbers
from storage.store_layout import pins_folder, report_folder, snapshot_file


@dataclass(frozen=True, slots=True)
class Garbage:
    """Objects that can go.

    Attributes:
        keys: The keys of objects that no kept snapshot reaches, older than the grace period.
        num_bytes: The size of these objects.
        num_young: The number of unreachable objects that are too young to remove.
        snapshots: The numbers of the snapshots that are not kept.
    """

    keys: tuple[str, ...]
    num_bytes: int
    num_young: int
    snapshots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Collected:
    """The objects and snapshots that a collection removed.

    Attributes:
        removed: False for a dry run.
        objects, bytes: The number and the size of the objects that went, or would go.
        too_young: The number of objects that no snapshot needs but that are younger than the grace period.
        snapshots: The numbers of the snapshots that went, or would go.
    """

    removed: bool
    objects: int
    bytes: int
    too_young: int
    snapshots: tuple[int, ...]


def collect(store: Path, keep: int, grace_hours: float, is_dry: bool, wait_s: float = 0.0) -> Collected:
    """Removes the objects that no kept snapshot needs; with `is_dry` it only reports them. See find_garbage.

    Raises:
        LockedError: another process writes to the store.
    """
    with writer_lock(store, wait_s):
        garbage = find_garbage(store, keep, grace_hours)
        if not is_dry:
            remove_garbage(store, garbage)
    return Collected(not is_dry, len(garbage.keys), garbage.num_bytes, garbage.num_young, garbage.snapshots)


def find_garbage(store: Path, keep: int, grace_hours: float) -> Garbage:
    """The objects and snapshots that a collection would remove.

    Args:
        store: The folder of the store.
        keep: The number of newest snapshots to keep; pinned ones (a file pins/<anything> with the id) are kept as well.
        grace_hours: Younger objects stay: a running refresh may be about to publish them.
    """
    numbers = snapshot_numbers(store)
    snapshots = {number: Snapshot.open(store, number) for number in numbers}
    pins = (path for path in pins_folder(store).glob("*") if path.is_file())
    pinned = {path.read_text(encoding="utf-8").strip() for path in pins}
    kept = [snapshots[n] for n in numbers if n in numbers[-max(1, keep) :] or snapshots[n].id in pinned]
    reachable = {ref.key for snapshot in kept for ref in snapshot.body.objects()}
    objects = ObjectStore(store)
    keys, num_bytes, num_young = [], 0, 0
    for key in objects.keys():  # noqa: SIM118 - a store, not a mapping
        if key in reachable:
            continue
        try:
            manifest = objects.manifest(key)
            age = datetime.now(UTC) - datetime.fromisoformat(manifest.committed_at)
            size = manifest.ref().num_bytes
        except StoreCorrupt:
            age, size = timedelta.max, 0
        if age < timedelta(hours=grace_hours):
            num_young += 1
        else:
            keys.append(key)
            num_bytes += size
    gone = tuple(n for n in numbers if snapshots[n] not in kept)
    return Garbage(tuple(keys), num_bytes, num_young, gone)


def remove_garbage(store: Path, garbage: Garbage) -> None:
    """Removes what `find_garbage` found; hold the writer lock. Snapshot files go first: none may point at a hole."""
    for number in garbage.snapshots:
        snapshot_file(store, number).unlink(missing_ok=True)
        # Its report shows frames, which must not outlive it.
        shutil.rmtree(report_folder(store, number), ignore_errors=True)
    objects = ObjectStore(store)
    for key in garbage.keys:
        objects.delete(key)
