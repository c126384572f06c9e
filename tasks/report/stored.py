"""What a snapshot stores: columns of every extractor, bytes and seconds by kind, weights it was made with."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from storage.cut_tables import CLIP_KEY
from storage.objects import Manifest
from storage.snapshot import FEATURES_TABLE, ShardEntry, Snapshot
from storage.tables import Column, columns_of, read_schema
from storage.timelaw import FPS
from storage.weights import WeightFile, listed

NUM_SLOWEST = 12


@dataclass(frozen=True, slots=True)
class Feature:
    """One extractor.

    Attributes:
        name: of the extractor.
        columns: without the clip key.
        num_bytes, seconds: over all shards; seconds of work when they were made.
    """

    name: str
    columns: tuple[Column, ...]
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SlowSource:
    """A source that took long to cut.

    Attributes:
        path, name: of the source.
        seconds: wall time of its cut.
        video_s: its length.
    """

    path: str
    name: str
    seconds: float
    video_s: float


@dataclass(slots=True)
class Stored:
    """Objects of a snapshot, summed up.

    Attributes:
        features: by name.
        bytes_by_kind: 'frames and audio', 'cut tables', each extractor, 'snapshot tables'.
        cut_seconds: wall time of all cuts.
        slowest: slowest sources first.
        weights: files of others that the numbers depend on, by name.
    """

    features: list[Feature] = field(default_factory=list)
    bytes_by_kind: dict[str, int] = field(default_factory=dict)
    cut_seconds: float = 0.0
    slowest: list[SlowSource] = field(default_factory=list)
    weights: dict[str, WeightFile] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole snapshot."""
        return sum(self.bytes_by_kind.values())


def stored_facts(snapshot: Snapshot) -> Stored:
    """Reads the manifest of every object once; no payload but the schemas of the first shard that has an extractor.

    Raises:
        StoreCorrupt: a manifest is missing or damaged.
    """
    out = Stored()
    cuts = [snapshot.objects.manifest(shard.cut.key) for shard in snapshot.body.shards]
    seconds = {source: value for cut in cuts for source, value in cut.timing.items()}
    out.features = [_feature(snapshot, name) for name in _extractors(snapshot.body.shards)]
    out.bytes_by_kind = _bytes_by_kind(snapshot, cuts, out.features)
    out.cut_seconds = sum(seconds.values())
    out.slowest = _slowest(snapshot, seconds)
    out.weights = _weights(snapshot, cuts[:1])
    return out


def score_columns(snapshot: Snapshot) -> dict[str, Column]:
    """Score of the clip table (`quality_jitter`) -> the column it comes from, for its unit and meaning."""
    return {
        f"{name}_{column.name}": column
        for name in _extractors(snapshot.body.shards)
        for column in _columns(snapshot, name)
        if not column.shape
    }


def _extractors(shards: Iterable[ShardEntry]) -> list[str]:
    return sorted({name for shard in shards for name in shard.features})


def _columns(snapshot: Snapshot, name: str) -> tuple[Column, ...]:
    key = next(shard.features[name].key for shard in snapshot.body.shards if name in shard.features)
    columns = columns_of(read_schema(snapshot.objects.path(key) / FEATURES_TABLE))
    return tuple(column for column in columns if column.name != CLIP_KEY.name)


def _feature(snapshot: Snapshot, name: str) -> Feature:
    refs = [shard.features[name] for shard in snapshot.body.shards if name in shard.features]
    seconds = sum(snapshot.objects.manifest(ref.key).timing.get("seconds", 0.0) for ref in refs)
    return Feature(name, _columns(snapshot, name), sum(ref.num_bytes for ref in refs), seconds)


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
    rows: list[dict[str, Any]] = (
        table.select(["path", "name", "num_slots", "state"]).take(pa.array(chosen, pa.int64())).to_pylist()
    )
    slow = [
        SlowSource(row["path"], row["name"], spent[index], row["num_slots"] / FPS)
        for index, row in zip(chosen, rows, strict=True)
        if row["state"] != "duplicate_of"  # it was never cut, its twin was
    ]
    return slow[:NUM_SLOWEST]


def _weights(snapshot: Snapshot, cuts: list[Manifest]) -> dict[str, WeightFile]:
    """Those named in the inputs of an object, and those of the face backend (which may come with a package)."""
    manifests = [*cuts]
    for name in _extractors(snapshot.body.shards):
        ref = next(shard.features[name] for shard in snapshot.body.shards if name in shard.features)
        manifests.append(snapshot.objects.manifest(ref.key))
    inputs = [manifest.key_inputs for manifest in manifests if isinstance(manifest.key_inputs, dict)]
    named = {name for found in inputs for name in found.get("weights", {})}
    backend = re.compile(rf"face backend {re.escape(snapshot.body.config['face']['backend'])}\b")
    return {name: file for name, file in listed().items() if name in named or backend.search(file.used_by)}
