"""Takedowns: sources that were withdrawn and stay out of every later snapshot.

    <store>/takedowns.json      {"schema_version": 1, "takedowns": [...]}, replaced whole at every change

A source is identified by its content, so it stays out when its file is renamed, copied, or comes back. What was
published before is not touched: `Takedowns.held_in` lists the takedowns whose source a snapshot still holds.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from storage.errors import LockedError, PreflightError, StoreCorrupt
from storage.files import make_dir, replace_durable
from storage.snapshot import Snapshot
from storage.store_layout import takedowns_file, takedowns_lock

SCHEMA_VERSION = 1

_LOCK_WAIT_S = 10.0


class Takedown(BaseModel):
    """One withdrawn source.

    Attributes:
        sha256: of the video file; '' when it stands in no table any more, only in shards.
        source_ids: every id the source is known by (they differ by audio file and spans), sorted.
        path: its path when it was taken down, for people.
        reason: stands in the tables of later snapshots.
        taken_at: UTC, ISO 8601.
        who: the person who asked for it or did it; stands in no table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    source_ids: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")], ...]
    path: str
    reason: str
    taken_at: str
    who: str = ""

    def is_same_source(self, other: "Takedown") -> bool:
        """True when both are about one video file, or share an id."""
        return (bool(self.sha256) and self.sha256 == other.sha256) or bool({*self.source_ids} & {*other.source_ids})


@dataclass(frozen=True)
class Takedowns:
    """Every takedown of a store, oldest first."""

    entries: tuple[Takedown, ...] = ()

    @cached_property
    def source_ids(self) -> frozenset[str]:
        """Ids of sources no shard of a new snapshot may hold."""
        return frozenset(source_id for entry in self.entries for source_id in entry.source_ids)

    @cached_property
    def _by_content(self) -> Mapping[str, Takedown]:
        pairs = [(key, entry) for entry in self.entries for key in (entry.sha256, *entry.source_ids) if key]
        return dict(pairs)

    def of(self, sha256: str, source_id: str) -> Takedown | None:
        """The takedown of a source with this hash of its video file, or this id."""
        return self._by_content.get(sha256) or self._by_content.get(source_id)

    def held_in(self, snapshot: Snapshot) -> list[Takedown]:
        """Takedowns whose source a snapshot holds in its shards, kept or not, also when its file is long gone."""
        held = {member.source_id for shard in snapshot.body.shards for member in shard.members}
        return [entry for entry in self.entries if held & {*entry.source_ids}]


NO_TAKEDOWNS = Takedowns()


def load_takedowns(store: Path) -> Takedowns:
    """The takedowns of a store, none when it has no list.

    Raises:
        StoreCorrupt: the list cannot be read. Going on without it would bring withdrawn sources back.
    """
    path = takedowns_file(store)
    try:
        content = json.loads(path.read_bytes())
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {content['schema_version']}, this version reads {SCHEMA_VERSION}")
        return Takedowns(tuple(TypeAdapter(list[Takedown]).validate_python(content["takedowns"])))
    except FileNotFoundError:
        return NO_TAKEDOWNS
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise StoreCorrupt(f"{path}: not a list of takedowns: {error}; restore it from a copy") from None


def add_takedown(store: Path, takedown: Takedown) -> tuple[Takedown, bool]:
    """Adds a takedown to the list, or merges it with the entry of the same source.

    Returns:
        The entry as it now stands, and whether it is new: a source that is listed already keeps its first reason, time
        and path, and gains the ids that have become known.

    Raises:
        LockedError: another process is writing the list.
        PreflightError: no permission to write it.
        StoreCorrupt: the list cannot be read.
    """
    with _locked(store):
        listed = load_takedowns(store).entries
        same = [entry for entry in listed if entry.is_same_source(takedown)]
        merged = _merged([*same, takedown])
        entries = [merged if entry is same[0] else entry for entry in listed if entry not in same[1:]] if same else []
        _save(store, entries if same else [*listed, takedown])
    return merged, not same


def remove_takedown(store: Path, takedown: Takedown) -> None:
    """Takes an entry off the list; one that is not on it is fine.

    Raises:
        LockedError: another process is writing the list.
        PreflightError: no permission to write it.
        StoreCorrupt: the list cannot be read.
    """
    with _locked(store):
        listed = load_takedowns(store).entries
        _save(store, [entry for entry in listed if not entry.is_same_source(takedown)])


def _merged(same: list[Takedown]) -> Takedown:
    ids = sorted({source_id for entry in same for source_id in entry.source_ids})
    sha256 = next((entry.sha256 for entry in same if entry.sha256), "")
    return same[0].model_copy(update={"sha256": sha256, "source_ids": tuple(ids)})


def _save(store: Path, entries: Iterable[Takedown]) -> None:
    content = {"schema_version": SCHEMA_VERSION, "takedowns": [entry.model_dump(mode="json") for entry in entries]}
    replace_durable(takedowns_file(store), json.dumps(content, indent=1, ensure_ascii=False).encode())


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """A lock of its own: a source can be withdrawn while a refresh, which may take days, holds the store's."""
    make_dir(store)
    try:
        with FileLock(takedowns_lock(store), timeout=_LOCK_WAIT_S, poll_interval=0.02):
            yield
    except Timeout:
        raise LockedError(f"{takedowns_file(store)} is being written by another process; try again") from None
    except PermissionError as error:
        raise PreflightError(f"{store}: cannot be written ({error.strerror}); the takedown is not recorded") from error
