"""Status: what a store holds and which process is writing to it."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from storage.objects import ObjectStore
from storage.snapshot import Snapshot, snapshot_numbers, store_dataset
from storage.store_layout import writer_file


@dataclass(frozen=True, slots=True)
class Writer:
    """The process that holds the store's writer lock.

    Attributes:
        pid, host: The process and its host.
        start: The time it took the lock, UTC, ISO 8601.
    """

    pid: int
    host: str
    start: str


@dataclass(frozen=True, slots=True)
class SnapshotLine:
    """A snapshot in short.

    Attributes:
        number, id, created_at: See storage.snapshot.
        kept, expected: The number of kept and of expected clips.
        hours: The length of the kept clips.
        sources: State -> number of sources; 'total' besides.
        splits: Split -> number of kept clips.
    """

    number: int
    id: str
    created_at: str
    kept: int
    expected: int
    hours: float
    sources: Mapping[str, int]
    splits: Mapping[str, int]

    @staticmethod
    def of(snapshot: Snapshot) -> "SnapshotLine":
        """The line of a snapshot."""
        counts = snapshot.body.counts
        return SnapshotLine(
            number=snapshot.body.number, id=snapshot.id, created_at=snapshot.created_at, kept=counts["clips"]["kept"],
            expected=counts["clips"]["expected"], hours=counts["hours_kept"], sources=counts["sources"],
            splits=snapshot.body.splits,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The contents of a store.

    Attributes:
        store: The folder of the store.
        dataset: The block of datasets.yaml it belongs to.
        objects, bytes: The number and the size of all committed objects.
        writer: The process that is writing, None when there is none.
        snapshots: The snapshots, newest last.
    """

    store: str
    dataset: str
    objects: int
    bytes: int
    writer: Writer | None
    snapshots: tuple[SnapshotLine, ...]


def store_status(store: Path) -> StoreStatus:
    """The contents of the store in this folder.

    Raises:
        ConfigError: the folder is no store.
    """
    dataset = store_dataset(store)
    objects = ObjectStore(store)
    keys = list(objects.keys())
    return StoreStatus(
        store=str(store),
        dataset=dataset,
        objects=len(keys),
        bytes=sum(objects.manifest(key).ref().num_bytes for key in keys),
        writer=_writer(store),
        snapshots=tuple(SnapshotLine.of(Snapshot.open(store, number)) for number in snapshot_numbers(store)),
    )


def _writer(store: Path) -> Writer | None:
    try:
        found = json.loads(writer_file(store).read_bytes())
        writer = Writer(found["pid"], found["host"], found["start"])
        # A process that was killed outright leaves the file behind; the kernel has freed its lock.
        is_gone = writer.host == socket.gethostname() and not psutil.pid_exists(writer.pid)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if is_gone else writer
