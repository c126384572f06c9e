"""Snapshots: immutable, numbered lists of what a data set consists of; what training reads.

    <store>/store.json               which dataset the store holds
    <store>/snapshots/000042.json    id, time of publication, body; created exclusively, never changed

The id is the SHA-256 of the canonical body. The body holds no path, host or time, so equal data have equal ids.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from storage.cut_tables import CLIP_KEY, FRAMES_FOLDER, TRACKS_FILE
from storage.errors import ConfigError, SnapshotConflict, StoreCorrupt
from storage.files import create_exclusive, make_dir
from storage.frame_store import FrameStore
from storage.keys import canonical_json, sha256_hex
from storage.objects import ObjectRef, ObjectStore
from storage.records import Member, Shard
from storage.store_layout import snapshot_digits, snapshot_file, snapshots_folder, store_file
from storage.tables import Column, Row, columns_of, read_row, read_schema, read_table, to_numpy

SCHEMA_VERSION = 1
_REF_COLUMNS = ("name", CLIP_KEY.name, "shard_id", "row", "num_frames")
# Each open shard holds a file descriptor, of which a process commonly has 1024.
_MAX_OPEN_SHARDS = 256
CLIPS_TABLE = "clips.parquet"
SOURCES_TABLE = "sources.parquet"
# In the object of every extractor and shard.
FEATURES_TABLE = "features.parquet"


class ShardEntry(BaseModel):
    """One shard of a snapshot: its sources and the objects made of it.

    Attributes:
        shard_id, minutes: see storage.records.Shard.
        members: its sources in order, also those that are gone by now.
        cut: reference of the cut.
        features: extractor -> reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_id: str
    members: tuple[Member, ...]
    minutes: float
    cut: ObjectRef
    features: dict[str, ObjectRef]

    def shard(self) -> Shard:
        """The shard this entry is about."""
        return Shard(self.shard_id, tuple(member.source_id for member in self.members), self.minutes)


class SnapshotBody(BaseModel):
    """The content of a snapshot; its hash is the snapshot's id.

    Attributes:
        dataset: name of the block in datasets.yaml.
        number: 1, 2, 3 ...
        parent: id of the snapshot before, None for the first.
        config: the resolved block, without its root.
        code_version: the version of this package that published it.
        shards: sorted by id.
        tables: object with clips.parquet and sources.parquet.
        counts: sources by state, clips by outcome, frames, and so on; they close (see tasks.publish).
        splits: split -> number of kept clips.
        skipped_features: extractor -> why it did not run here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    dataset: str
    number: int
    parent: str | None
    config: dict[str, Any]
    code_version: str
    shards: tuple[ShardEntry, ...]
    tables: ObjectRef
    counts: dict[str, Any]
    splits: dict[str, int]
    skipped_features: dict[str, str]

    def snapshot_id(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))

    def contents(self) -> dict[str, Any]:
        """The part that decides whether anything changed: all but number, parent and code version."""
        return self.model_dump(mode="json", exclude={"number", "parent", "code_version"})

    def objects(self) -> Iterator[ObjectRef]:
        """Every object the snapshot needs."""
        yield self.tables
        for shard in self.shards:
            yield shard.cut
            yield from shard.features.values()


@dataclass(frozen=True, slots=True)
class ClipRef:
    """Location of one clip.

    Attributes:
        name: for people, `M003#angry#level_1#001`.
        clip: key in the store.
        shard: its shard.
        row: its row in every feature table of the shard.
        num_frames: N.
    """

    name: str
    clip: str
    shard: ShardEntry
    row: int
    num_frames: int


class Snapshot:
    """A published snapshot, read only. Safe to use in forked and spawned workers: nothing is open until it is read.

    Attributes:
        store: folder of the store.
        id: 64 hex digits.
        created_at: UTC, ISO 8601.
        body: see SnapshotBody.
    """

    def __init__(self, store: Path, snapshot_id: str, created_at: str, body: SnapshotBody) -> None:
        self.store, self.id, self.created_at, self.body = store, snapshot_id, created_at, body
        self.objects = ObjectStore(store)
        self._frames: dict[str, FrameStore] = {}

    @staticmethod
    def open(store: Path | str, which: str | int = "latest") -> "Snapshot":
        """A snapshot of the store.

        Args:
            store: its folder.
            which: 'latest', a number, or the first digits (6 or more) of an id.

        Raises:
            ConfigError: no such snapshot; those that exist are named.
            StoreCorrupt: the file is not what its id says.
        """
        folder = Path(store).absolute()
        numbers = snapshot_numbers(folder)
        if not numbers:
            raise ConfigError(f"{folder}: no snapshot is published here; run `talkset refresh` first")
        if which == "latest":
            return _load(folder, numbers[-1])
        text = str(which)
        if (text.isdigit() and len(text) < 6) or text in map(snapshot_digits, numbers):
            if int(text) in numbers:
                return _load(folder, int(text))
        else:
            for number in numbers:
                snapshot = _load(folder, number)
                if len(text) >= 6 and snapshot.id.startswith(text):
                    return snapshot
        raise ConfigError(f"{folder}: no snapshot {which!r}; there are {numbers[0]} to {numbers[-1]}")

    def __reduce__(self) -> "tuple[type[Snapshot], tuple[Path, str, str, SnapshotBody]]":
        return type(self), (self.store, self.id, self.created_at, self.body)

    @cached_property
    def clip_table(self) -> pa.Table:
        """One row per expected clip, kept or not, with labels, split, reason and every score."""
        return read_table(self.objects.path(self.body.tables.key) / CLIPS_TABLE)

    @cached_property
    def source_table(self) -> pa.Table:
        """One row per source of the inventory with its one state."""
        return read_table(self.objects.path(self.body.tables.key) / SOURCES_TABLE)

    @cached_property
    def _shards(self) -> Mapping[str, ShardEntry]:
        return {shard.shard_id: shard for shard in self.body.shards}

    @cached_property
    def _place_of(self) -> Mapping[str, int]:
        """Row of the clip table by name and by key, of stored clips."""
        names, keys, rows = (self.clip_table[column].to_pylist() for column in ("name", "clip", "row"))
        stored = [at for at, row in enumerate(rows) if row >= 0]
        return {keys[at]: at for at in stored} | {names[at]: at for at in stored}

    def rows(self, split: str | None = None, kept: bool = True) -> list[dict[str, Any]]:
        """Rows of `clip_table` as mappings: kept clips (all expected ones with kept=False), of one split or all."""
        table = self.clip_table.to_pylist()
        return [row for row in table if (row["is_kept"] or not kept) and (split is None or row["split"] == split)]

    def clips(self, split: str | None = None) -> list[ClipRef]:
        """The kept clips, of one split or all, in the order of the table."""
        return [self._ref(row) for row in self.rows(split)]

    def clip(self, name: str) -> ClipRef:
        """The stored clip of this name or key.

        Raises:
            KeyError: there is none.
        """
        at = self._place_of.get(name)
        if at is not None:
            return self._ref({column: self.clip_table[column][at].as_py() for column in _REF_COLUMNS})
        raise KeyError(f"snapshot {self.body.number} of {self.body.dataset} stores no clip {name!r}")

    def frames(self, shard: ShardEntry) -> FrameStore:
        """Frames and audio of a shard."""
        if shard.shard_id not in self._frames:
            while len(self._frames) >= _MAX_OPEN_SHARDS:
                self._frames.pop(next(iter(self._frames))).close()
            files = self.objects.manifest(shard.cut.key).files
            folder = self.objects.path(shard.cut.key) / FRAMES_FOLDER
            self._frames[shard.shard_id] = FrameStore(folder, files[f"{FRAMES_FOLDER}/data.mdb"].bytes)
        return self._frames[shard.shard_id]

    def frame(self, clip: ClipRef, index: int) -> NDArray[np.uint8]:
        """Frame `index` of a clip: [S, S, 3] uint8 RGB."""
        return self.frames(clip.shard).frame(clip.clip, index)

    def audio(self, clip: ClipRef) -> NDArray[np.float32]:
        """Audio of a clip: [640 N] float32 mono 16 kHz."""
        return self.frames(clip.shard).audio(clip.clip)

    def feature(self, clip: ClipRef, extractor: str, columns: list[str] | None = None) -> Row:
        """Columns of one extractor for a clip.

        Raises:
            KeyError: the snapshot holds no such feature; those it has are named.
        """
        return read_row(self._features_path(clip.shard, extractor), clip.row, columns)

    def features(self, clips: Sequence[ClipRef], extractor: str, columns: list[str]) -> list[Row]:
        """As `feature` for many clips. A shard's table is read once: clip by clip it would take minutes.

        Raises:
            KeyError: the snapshot holds no such feature; those it has are named.
        """
        shards = {clip.shard.shard_id: clip.shard for clip in clips}
        tables = {id: read_table(self._features_path(shard, extractor), columns) for id, shard in shards.items()}
        return [{name: to_numpy(tables[clip.shard.shard_id], name, clip.row) for name in columns} for clip in clips]

    def tracks(self, clip: ClipRef) -> Row:
        """What the cut stored per frame of a clip: landmarks, source boxes, number of faces, damage."""
        return read_row(self.objects.path(clip.shard.cut.key) / TRACKS_FILE, clip.row)

    def _features_path(self, shard: ShardEntry, extractor: str) -> Path:
        if extractor not in shard.features:
            have = ", ".join(sorted(shard.features))
            why = self.body.skipped_features.get(extractor)
            raise KeyError(f"no feature {extractor!r}{f' ({why})' if why else ''}; this snapshot has {have}")
        return self.objects.path(shard.features[extractor].key) / FEATURES_TABLE

    def _ref(self, row: Mapping[str, Any]) -> ClipRef:
        return ClipRef(row["name"], row["clip"], self._shards[row["shard_id"]], row["row"], row["num_frames"])


def feature_columns(snapshot: Snapshot) -> dict[str, tuple[Column, ...]]:
    """Columns of each extractor that every shard has, without the clip key; sorted by name.

    Raises:
        StoreCorrupt: a feature table is missing or damaged.
    """
    shards = snapshot.body.shards
    names = set(shards[0].features).intersection(*(shard.features for shard in shards)) if shards else set()
    found: dict[str, tuple[Column, ...]] = {}
    for name in sorted(names):
        schema = read_schema(snapshot.objects.path(shards[0].features[name].key) / FEATURES_TABLE)
        found[name] = tuple(column for column in columns_of(schema) if column.name != CLIP_KEY.name)
    return found


def find_column(columns: dict[str, tuple[Column, ...]], name: str) -> tuple[str, Column]:
    """(extractor, column) of a field `column` or `extractor.column`.

    Raises:
        ConfigError: no extractor has it, or several have; those that exist are named.
    """
    wanted = name.rpartition(".")
    found = [
        (extractor, column)
        for extractor, own in columns.items()
        for column in own
        if column.name == wanted[2] and wanted[0] in ("", extractor)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{extractor}.{name}" for extractor, _ in found)
        raise ConfigError(f"field {name!r} is in several features; write {choices}")
    have = "; ".join(f"{extractor}: {', '.join(column.name for column in own)}" for extractor, own in columns.items())
    raise ConfigError(f"the snapshot has no field {name!r}; its features are {have or 'none'}")


def snapshot_numbers(store: Path) -> list[int]:
    """Numbers of the published snapshots, ascending."""
    return sorted(int(path.stem) for path in snapshots_folder(store).glob("[0-9]*.json") if path.stem.isdigit())


def latest(store: Path) -> Snapshot | None:
    """The newest snapshot, None when nothing is published."""
    return Snapshot.open(store) if snapshot_numbers(store) else None


def publish(store: Path, body: SnapshotBody) -> Snapshot:
    """Publishes `body` as the next snapshot of its parent: compare and swap by exclusive creation.

    Raises:
        SnapshotConflict: another process published meanwhile; plan again on top of it.
    """
    current = latest(store)
    if (current.id if current else None) != body.parent or body.number != (current.body.number if current else 0) + 1:
        raise SnapshotConflict(f"{store}: the latest snapshot is no longer the parent; run the refresh again")
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"id": body.snapshot_id(), "created_at": created_at, "body": body.model_dump(mode="json")}
    make_dir(snapshots_folder(store))
    try:
        create_exclusive(snapshot_file(store, body.number), json.dumps(content, indent=1, ensure_ascii=False).encode())
    except FileExistsError:
        raise SnapshotConflict(f"{store}: snapshot {body.number} was published meanwhile; run again") from None
    return Snapshot(store, content["id"], created_at, body)


def bind_store(store: Path, dataset: str) -> None:
    """Makes `store` the store of `dataset`, or checks that it is.

    Raises:
        ConfigError: it holds another dataset.
    """
    make_dir(store)
    try:
        create_exclusive(store_file(store), canonical_json({"dataset": dataset, "schema_version": SCHEMA_VERSION}))
    except FileExistsError:
        found = store_dataset(store)
        if found != dataset:
            raise ConfigError(f"{store} holds dataset {found!r}, not {dataset!r}; pass another --store") from None


def store_dataset(store: Path) -> str:
    """Which dataset a store holds.

    Raises:
        ConfigError: the folder is no store.
    """
    try:
        return str(json.loads(store_file(store).read_bytes())["dataset"])
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"{store} is no talkset store; `talkset refresh DATASET --store {store}` makes one") from None


def _load(store: Path, number: int) -> Snapshot:
    path = snapshot_file(store, number)
    try:
        content = json.loads(path.read_bytes())
        body = SnapshotBody.model_validate(content["body"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise StoreCorrupt(f"{path}: not a snapshot: {error}; restore it from a copy") from None
    if body.snapshot_id() != content["id"]:
        raise StoreCorrupt(f"{path}: its content does not have the id it names; restore it from a copy")
    return Snapshot(store, content["id"], content["created_at"], body)
