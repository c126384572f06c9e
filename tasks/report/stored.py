"""What a snapshot stores: columns of every extractor, bytes and seconds by kind, weights it was made with."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.cut_tables import CLIP_KEY
from storage.objects import Manifest, ObjectRef
from storage.snapshot import FEATURES_TABLE, Snapshot
from storage.tables import Column, columns_of, read_schema
from storage.timelaw import FPS
from storage.weights import WeightFile, listed

NUM_SLOWEST = 12


@dataclass(frozen=True, slots=True)
class Feature:
    """One extractor.

    Attributes:
        name: The name of the extractor.
        columns: Its columns without the clip key.
        num_bytes, seconds: The size of its objects and the seconds of work that made them, over all shards.
    """

    name: str
    columns: tuple[Column, ...]
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SlowSource:
    """A source that took long to cut.

    Attributes:
        path, name: See sources.parquet.
        seconds: The wall time of its cut.
        video_s: The length of its video.
    """

    path: str
    name: str
    seconds: float
    video_s: float


@dataclass(frozen=True, slots=True)
class Stored:
    """Objects of a snapshot, summed up.

    Attributes:
        features: The extractors, by name.
        bytes_by_kind: Sizes of 'frames and audio', 'cut tables', each extractor, 'snapshot tables'.
        cut_seconds: The wall time of all cuts.
        slowest: The slowest sources, slowest first.
        weights: The third-party files that the numbers depend on, by name.
    """

    features: list[Feature]
    bytes_by_kind: dict[str, int]
    cut_seconds: float
    slowest: list[SlowSource]
    weights: dict[str, WeightFile]

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole snapshot."""
        return sum(self.bytes_by_kind.values())


def stored_facts(snapshot: Snapshot) -> Stored:
    """Reads the manifest of every object once; no payload but the schemas of the first shard that has an extractor.

    Raises:
        StoreCorrupt: a manifest is missing or damaged.
    """
    cuts = [snapshot.objects.manifest(shard.cut.key) for shard in snapshot.body.shards]
    seconds = {source: value for cut in cuts for source, value in cut.timing.items()}
    made = {name: [snapshot.objects.manifest(ref.key) for ref in refs] for name, refs in extractors(snapshot).items()}
    features = [
        Feature(
            name,
            _columns(snapshot, refs[0]),
            num_bytes=sum(ref.num_bytes for ref in refs),
            seconds=sum(manifest.timing.get("seconds", 0.0) for manifest in made[name]),
        )
        for name, refs in extractors(snapshot).items()
    ]
    return Stored(
        features=features,
        bytes_by_kind=_bytes_by_kind(snapshot, cuts, features),
        cut_seconds=sum(seconds.values()),
        slowest=_slowest(snapshot, seconds),
        weights=_weights(snapshot, [*cuts[:1], *(manifests[0] for manifests in made.values())]),
    )


def score_columns(snapshot: Snapshot) -> dict[str, Column]:
    """Score of the clip table (`quality_jitter`) -> the column it comes from, for its unit and meaning."""
    return {
        f"{name}_{column.name}": column
        for name, refs in extractors(snapshot).items()
        for column in _columns(snapshot, refs[0])
        if not column.shape
    }


def extractors(snapshot: Snapshot) -> dict[str, list[ObjectRef]]:
    """Extractor, by name -> its object of every shard that has one."""
    shards = snapshot.body.shards
    names = sorted({name for shard in shards for name in shard.features})
    return {name: [shard.features[name] for shard in shards if name in shard.features] for name in names}


def _columns(snapshot: Snapshot, ref: ObjectRef) -> tuple[Column, ...]:
    columns = columns_of(read_schema(snapshot.objects.path(ref.key) / FEATURES_TABLE))
    return tuple(column for column in columns if column.name != CLIP_KEY.name)


def _bytes_by_kind(snapshot: Snapshot, cuts: list[Manifest], features: list[Feature]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for cut in cuts:
        for name, file in cut.files.items():
            kinds["frames and audio" if name.startswith("frames/") else "cut tables"] += file.bytes
    kinds.update({feature.name: feature.num_bytes for feature in features})
    kinds["snapshot tables"] += snapshot.body.tables.num_bytes
    return dict(sorted(kinds.items(), key=lambda kind: -kind[1]))


def _slowest(snapshot: Snapshot, seconds: dict[str, float]) -> list[SlowSource]:
    table = snapshot.source_table
    ids = table["source_id"].to_pylist()
    spent = np.array([seconds.get(source, 0.0) if source else 0.0 for source in ids])
    chosen = [int(index) for index in np.argsort(-spent, kind="stable")[: 2 * NUM_SLOWEST] if spent[index] > 0]
    rows = table.select(["path", "name", "num_slots", "state"]).take(pa.array(chosen, pa.int64())).to_pylist()
    slow = [
        SlowSource(row["path"], row["name"], spent[index], row["num_slots"] / FPS)
        for index, row in zip(chosen, rows, strict=True)
        if row["state"] != "duplicate_of"  # it was never cut, its twin was
    ]
    return slow[:NUM_SLOWEST]


def _weights(snapshot: Snapshot, manifests: Iterable[Manifest]) -> dict[str, WeightFile]:
    """Those named in the inputs of an object, and those of the face backend (which may come with a package)."""
    inputs = [manifest.key_inputs for manifest in manifests if isinstance(manifest.key_inputs, dict)]
    named = {name for found in inputs for name in found.get("weights", {})}
    backend = re.compile(rf"face backend {re.escape(snapshot.body.config['face']['backend'])}\b")
    return {name: file for name, file in listed().items() if name in named or backend.search(file.used_by)}
