"""Explain: what happened to one source or clip, with its scores, the reason and what to change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import ReasonText, reason_text
from storage.records import State
from storage.snapshot import Snapshot
from tasks.store.names import Vocabulary, match_sources, readings, source_names, the_one

_CLIP_FACTS = (
    "name", "clip", "is_kept", "reason", "detail", "split", "subject", "emotion", "num_frames", "start_s", "crop_x_px",
    "crop_y_px", "crop_side_px", "shard_id", "row",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExplainedClip:
    """One expected clip.

    Attributes:
        name ... row: Columns of clips.parquet.
        scores: Every score of the clip, NaN where it is not stored.
        thresholds: Score -> {'min', 'max'} of the dataset's thresholds that judged it.
        why: The texts of its reason, None for a kept clip.
    """

    name: str
    clip: str
    is_kept: bool
    reason: str
    detail: str
    split: str
    subject: str
    emotion: str
    num_frames: int
    start_s: float
    crop_x_px: int
    crop_y_px: int
    crop_side_px: int
    shard_id: str
    row: int
    scores: Mapping[str, float]
    thresholds: Mapping[str, Mapping[str, float | None]]
    why: ReasonText | None

    @staticmethod
    def of(row: Mapping[str, Any], limits: Mapping[str, Mapping[str, float | None]]) -> "ExplainedClip":
        """The clip of a row of clips.parquet; limits: the dataset's thresholds."""
        scores = {name: value for name, value in row.items() if isinstance(value, float) and name != "start_s"}
        return ExplainedClip(
            **{name: row[name] for name in _CLIP_FACTS},
            scores=scores,
            thresholds={name: limits[name] for name in limits if name in scores},
            why=reason_text(row["reason"]),
        )


@dataclass(frozen=True, slots=True)
class ExplainedSource:
    """One source and its outcome.

    Attributes:
        path ... seconds: Columns of sources.parquet.
        clips: Its clips, or only those that were asked for; none for a duplicate, whose clips are its original's.
        why: The texts of its reason, None when it was not rejected.
    """

    path: str
    path_hex: str
    source_id: str
    layout: str
    name: str
    subject: str
    labels: str
    size_bytes: int
    sha256: str
    audio_sha256: str
    state: str
    reason: str
    detail: str
    duplicate_of: str
    shard_id: str
    num_expected: int
    num_kept: int
    num_frames_kept: int
    codec: str
    width_px: int
    height_px: int
    avg_fps: float
    num_slots: int
    num_corrupt: int
    seconds: float
    clips: tuple[ExplainedClip, ...]
    why: ReasonText | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The outcome of a source (of all sources with its content, where that was named).

    Attributes:
        snapshot: The number of the snapshot.
        sources: The sources, in the order of its table.
    """

    snapshot: int
    sources: tuple[ExplainedSource, ...]


def explain(snapshot: Snapshot, name: str) -> Explanation:
    """The outcome of the source or clip that `name` means; see tasks.store.names for what it may be called.

    Raises:
        ConfigError: nothing in the snapshot is called so, or several things are; they are named.
    """
    found = next((found for text in readings(name, [snapshot]) if (found := match_sources([snapshot], text))), [])
    vocabulary = Vocabulary(
        where=f"snapshot {snapshot.body.number} of {snapshot.body.dataset}",
        kinds="source or clip",
        names=source_names([snapshot]),
        advice="it may be new (run `talkset refresh`) or not selected in datasets.yaml",
    )
    meant = the_one(found, name, vocabulary)
    sources = _rows(snapshot.source_table, "path", meant.paths)
    clips = _rows(snapshot.clip_table, "source_id", {row["source_id"] for row in sources} - {""})
    explained, limits = [], snapshot.body.config["thresholds"]
    for row in sources:
        is_twin = row["state"] == State.DUPLICATE.value
        own = [clip for clip in clips if clip["source_id"] == row["source_id"] and not is_twin]
        wanted = tuple(ExplainedClip.of(clip, limits) for clip in own if not meant.clips or clip["clip"] in meant.clips)
        explained.append(ExplainedSource(**row, clips=wanted, why=reason_text(row["reason"])))
    return Explanation(snapshot.body.number, tuple(explained))


def _rows(table: pa.Table, column: str, values: frozenset[str] | set[str]) -> list[dict[str, Any]]:
    return table.filter(pc.field(column).isin(pa.array(sorted(values), pa.string()))).to_pylist()
