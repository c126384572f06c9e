"""Publish: prove that nothing was lost, apply the thresholds, name and split the clips, write the next snapshot."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import snapshot as snapshots
from storage.catalog import Dataset, SplitRule
from storage.cut_tables import CLIPS_FILE, SOURCES_FILE
from storage.emotions import canonical_emotion
from storage.errors import AccountingError, Reason
from storage.keys import object_key
from storage.objects import ObjectRef, ObjectStore
from storage.records import ShardResults, Source, State
from storage.snapshot import CLIPS_TABLE, FEATURES_TABLE, SOURCES_TABLE, ShardEntry, Snapshot, SnapshotBody
from storage.tables import Column, Row, read_numbers, read_table, write_scalars
from storage.timelaw import FPS
from tasks import features
from tasks.inventory import Inventory
from tasks.plan import Plan

PUBLISH_VERSION = 1

# Score (extractor_column) -> [clips stored in the shard] float64.
_Scores = Mapping[str, NDArray[np.float64]]

# A threshold on these scores has a reason code of its own.
_REASON_OF_SCORE = {
    "quality_valid_share": Reason.FACE_LEFT_FRAME,
    "quality_multi_face_share": Reason.MULTI_FACE,
}


@dataclass(frozen=True, slots=True)
class RefreshResults:
    """All that a refresh has found and computed.

    Attributes:
        inventory: every source, in any state.
        plan: how the usable ones were laid out.
        shards: every shard of the snapshot, in any order.
        failed: source id -> error of sources that must be tried again.
        skipped_features: extractor -> why it did not run on this machine.
    """

    inventory: Inventory
    plan: Plan
    shards: Sequence[ShardResults]
    failed: Mapping[str, str] = field(default_factory=dict)
    skipped_features: Mapping[str, str] = field(default_factory=dict)


def publish_snapshot(dataset: Dataset, store: Path, found: RefreshResults, code_version: str) -> tuple[Snapshot, bool]:
    """Publishes the next snapshot if anything differs from the latest one.

    Args:
        dataset: its thresholds and split rule are applied.
        store: where to publish.
        found: the results of the refresh.
        code_version: version of this package.

    Returns:
        The snapshot that now is the latest, and whether it is new.

    Raises:
        AccountingError: a source or clip is in no state or in two; nothing was published.
        SnapshotConflict: another process published meanwhile.
    """
    objects = ObjectStore(store)
    # In one order whatever was there already and whatever was computed in this run: the id depends on it.
    results = sorted(found.shards, key=lambda result: result.shard.shard_id)
    sources = _source_rows(objects, found, results)
    scores = {result.shard.shard_id: _scores(objects, result) for result in results}
    clips = _clip_rows(objects, dataset, found.plan, results, scores)
    _close_accounts(found.inventory, results, sources, clips)
    _count_into(sources, clips)
    parent = snapshots.latest(store)
    body = SnapshotBody(
        dataset=dataset.name,
        number=parent.body.number + 1 if parent else 1,
        parent=parent.id if parent else None,
        config=_config(dataset),
        code_version=code_version,
        shards=tuple(
            ShardEntry(
                shard_id=result.shard.shard_id,
                members=result.members,
                minutes=result.shard.minutes,
                cut=result.cut.ref(),
                features={name: feature.ref() for name, feature in sorted(result.features.items())},
            )
            for result in results
        ),
        tables=_commit_tables(objects, clips, sources, scores),
        counts=_counts(found.inventory, sources, clips),
        splits=dict(sorted(Counter(_kept(clips, "split")).items())),
        skipped_features=dict(sorted(found.skipped_features.items())),
    )
    if parent and parent.body.contents() == body.contents():
        return parent, False
    return snapshots.publish(store, body), True


def _config(dataset: Dataset) -> dict[str, Any]:
    """The resolved block without what belongs to the machine: its root, and paths among the extractors' parameters."""
    config = dataset.data_settings()
    del config["name"]
    known = features.discover()
    config["features"] = {
        name: features.key_params(name, known[name].Params.model_validate(given)) if name in known else given
        for name, given in dataset.features.items()
    }
    return config


def split_of(subject: str, rule: SplitRule) -> str:
    """'train', 'val' or 'test' of a subject: listed ones as listed, others by a hash that no other subject moves."""
    if subject in rule.test:
        return "test"
    if subject in rule.val:
        return "val"
    point = int(hashlib.sha256(subject.encode()).hexdigest()[:8], 16) / 2**32
    if point < rule.test_share:
        return "test"
    return "val" if point < rule.test_share + rule.val_share else "train"


# ---- sources


def _source_rows(objects: ObjectStore, found: RefreshResults, results: Sequence[ShardResults]) -> list[Row]:
    cut_rows: dict[str, Row] = {}
    shard_of: dict[str, str] = {}
    for result in results:
        for row in read_table(objects.path(result.cut.key) / SOURCES_FILE, _CUT_SOURCE_COLUMNS).to_pylist():
            cut_rows[row["source_id"]] = row
            shard_of[row["source_id"]] = result.shard.shard_id
    return [_source_row(source, found.plan, cut_rows, shard_of, found.failed) for source in found.inventory.sources]


def _source_row(
    source: Source, plan: Plan, cut_rows: Mapping[str, Row], shard_of: Mapping[str, str],
    failed: Mapping[str, str],
) -> Row:  # fmt: skip
    source_id = source.source_id if source.is_usable else ""
    cut = cut_rows.get(source_id, {})
    state, reason, detail, twin = _state_of(source, source_id, plan, cut, failed)
    return {
        "path": source.path, "path_hex": source.path_hex, "source_id": source_id,
        "layout": source.layout, "name": source.name, "subject": source.subject,
        "labels": json.dumps(source.labels, sort_keys=True, ensure_ascii=False), "size_bytes": source.size_bytes,
        "sha256": source.sha256, "audio_sha256": source.audio_sha256, "state": state.value if state else "",
        "reason": reason, "detail": detail, "duplicate_of": twin,
        "shard_id": shard_of.get(source_id, "") if state in (State.DONE, State.REJECTED) else "",
        "num_expected": 0, "num_kept": 0, "num_frames_kept": 0,
        "codec": cut.get("codec", ""), "width_px": cut.get("width_px", 0), "height_px": cut.get("height_px", 0),
        "avg_fps": cut.get("avg_fps", 0.0), "num_slots": cut.get("num_slots", 0),
        "num_corrupt": cut.get("num_corrupt", 0), "seconds": source.seconds,
    }  # fmt: skip


def _state_of(
    source: Source, source_id: str, plan: Plan, cut: Mapping[str, Any], failed: Mapping[str, str]
) -> tuple[State | None, str, str, str]:
    """(state, reason, detail, duplicate_of); no state when no step has handled the source."""
    if source.reason is not None:
        return State.REJECTED, source.reason.value, source.detail, ""
    if source.error:
        return State.FAILED, "", source.error, ""
    if source.path_hex in plan.duplicates:
        return State.DUPLICATE, "", f"same content as {plan.duplicates[source.path_hex]}", source.sha256
    if source_id in failed:
        return State.FAILED, "", failed[source_id], ""
    if not cut:
        return None, "", "", ""
    return State(cut["state"]), cut["reason"], cut["detail"], ""


# ---- clips


def _clip_rows(
    objects: ObjectStore, dataset: Dataset, plan: Plan, results: Sequence[ShardResults], scores: Mapping[str, _Scores]
) -> list[dict[str, Any]]:
    live = set(plan.by_id)
    rows: list[dict[str, Any]] = []
    for result in results:
        shard_id, stored = result.shard.shard_id, 0
        first: dict[tuple[str, int], int] = {}
        for row in read_table(objects.path(result.cut.key) / CLIPS_FILE, _CUT_CLIP_COLUMNS).to_pylist():
            at = stored if row["is_stored"] else -1
            stored += row["is_stored"]
            row["k"] = row["window"] - first.setdefault((row["source_id"], row["span"]), row["window"]) + 1
            if row["source_id"] in live:
                rows.append(_clip_row(row, at, scores[shard_id], shard_id, plan.by_id[row["source_id"]], dataset))
    _name_uniquely(rows)
    return sorted(rows, key=lambda row: row["name"])


def _scores(objects: ObjectStore, result: ShardResults) -> dict[str, NDArray[np.float64]]:
    """Every scalar number of every extractor."""
    out: dict[str, NDArray[np.float64]] = {}
    for name, feature in sorted(result.features.items()):
        table = read_numbers(objects.path(feature.key) / FEATURES_TABLE)
        _require(
            table.num_rows == result.cut.num_clips,
            f"shard {result.shard.shard_id}: {table.num_rows} rows of {name} for {result.cut.num_clips} clips",
        )
        for column in table.column_names:
            out[f"{name}_{column}"] = table[column].to_numpy().astype(np.float64)
    return out


def _clip_row(row: Mapping[str, Any], at: int, scores: _Scores, shard_id: str, source: Source, dataset: Dataset) -> Row:
    judged = {name: float(scores[name][at]) for name in dataset.thresholds if name in scores} if at >= 0 else {}
    reason, detail = _judge(judged, dataset) if at >= 0 else (row["reason"], row["detail"])
    layout = dataset.layouts[source.layout]
    return {
        "name": _clip_name(source, row, is_whole=layout.clips.length_s == "whole"), "clip": row["clip"],
        "source_id": row["source_id"], "shard_id": shard_id, "row": at, "window": row["window"], "span": row["span"],
        "split": split_of(source.subject, dataset.split), "is_kept": at >= 0 and not reason, "reason": reason,
        "detail": detail, "subject": source.subject, "layout": source.layout,
        "emotion": canonical_emotion(source.labels.get("emotion", "")), "level": source.labels.get("level", ""),
        "take": source.labels.get("take", ""), "view": source.labels.get("view", ""),
        "num_frames": row["num_frames"], "start_s": row["start_s"], "has_audio": row["has_audio"],
        "crop_x_px": row["crop_x_px"], "crop_y_px": row["crop_y_px"], "crop_side_px": row["crop_side_px"],
        "size_px": row["size_px"],
    }  # fmt: skip


def _judge(scores: Mapping[str, float], dataset: Dataset) -> tuple[str, str]:
    """(reason, detail) of the first threshold that the clip misses, ('', '') when it passes all."""
    for name, bound in dataset.thresholds.items():
        value = scores.get(name, float("nan"))
        is_low = bound.min is not None and not value >= bound.min
        is_high = bound.max is not None and not value <= bound.max
        if is_low or is_high:
            limit = f"min {bound.min:g}" if is_low else f"max {bound.max:g}"
            return _REASON_OF_SCORE.get(name, Reason.BELOW_THRESHOLD).value, f"{name} is {value:.4g}, {limit}"
    return "", ""


def _clip_name(source: Source, row: Mapping[str, Any], is_whole: bool) -> str:
    """`name` for the one clip of a take, `name#k` (1-based in its span) where sources are split; {span} is filled."""
    base = source.name.replace("{span}", f"{row['span']:03d}")
    return base if is_whole and row["k"] == 1 else f"{base}#{row['k']}"


def _name_uniquely(rows: Sequence[dict[str, Any]]) -> None:
    """Equal names (two folders with equal file names) get part of their content's id added."""
    count = Counter(row["name"] for row in rows)
    for row in rows:
        if count[row["name"]] > 1:
            row["name"] = f"{row['name']}~{row['source_id'][:8]}"


# ---- accounts


def _close_accounts(
    inventory: Inventory, results: Sequence[ShardResults], sources: Sequence[Mapping[str, Any]],
    clips: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    """Every source in exactly one state, every expected clip kept or dropped with a reason, every table complete."""
    _require(len(sources) == len(inventory.sources), f"{len(sources)} of {len(inventory.sources)} sources have a row")
    open_ones = [row["path"] for row in sources if not row["state"]]
    _require(not open_ones, f"{len(open_ones)} sources are in no state, first {open_ones[:1]}")
    placed = Counter(source_id for result in results for source_id in result.cut.source_ids)
    twice = [source_id for source_id, times in placed.items() if times > 1]
    _require(not twice, f"sources in two shards: {twice[:3]}")
    keys = Counter(row["clip"] for row in clips)
    _require(all(times == 1 for times in keys.values()), "a clip key stands twice")
    unexplained = [row["name"] for row in clips if not row["is_kept"] and not row["reason"]]
    _require(not unexplained, f"{len(unexplained)} clips are dropped without a reason, first {unexplained[:1]}")
    done = {row["source_id"] for row in sources if row["state"] == State.DONE.value}
    silent = done - {row["source_id"] for row in clips if row["row"] >= 0}
    _require(not silent, f"sources are done but store no clip: {sorted(silent)[:3]}")
    names = Counter(row["name"] for row in clips)
    _require(all(times == 1 for times in names.values()), "two clips have one name")
    kinds = {tuple(sorted(result.features)) for result in results}
    _require(len(kinds) <= 1, f"shards hold different features: {sorted(kinds)}")
    states = Counter(row["state"] for row in sources)
    _require(
        states[State.DONE.value] > 0 or not states[State.FAILED.value],
        f"{states[State.FAILED.value]} sources failed and none is done",
    )


def _require(is_closed: bool, what: str) -> None:
    if not is_closed:
        raise AccountingError(f"the accounts do not close: {what}; nothing was published (please report this)")


def _count_into(sources: Sequence[dict[str, Any]], clips: Iterable[Mapping[str, Any]]) -> None:
    by_id = {row["source_id"]: row for row in sources if row["state"] == State.DONE.value or row["shard_id"]}
    for clip in clips:
        row = by_id[clip["source_id"]]
        row["num_expected"] += 1
        row["num_kept"] += clip["is_kept"]
        row["num_frames_kept"] += clip["num_frames"] * clip["is_kept"]


def _counts(
    inventory: Inventory, sources: Sequence[Mapping[str, Any]], clips: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    states = Counter(row["state"] for row in sources)
    frames = sum(_kept(clips, "num_frames"))
    num_kept = len(_kept(clips, "name"))
    return {
        "sources": {"total": len(sources), **{state.value: states[state.value] for state in State}},
        "rejected": dict(sorted(Counter(row["reason"] for row in sources if row["state"] == "rejected").items())),
        "clips": {"expected": len(clips), "kept": num_kept, "dropped": len(clips) - num_kept},
        "dropped": dict(sorted(Counter(row["reason"] for row in clips if not row["is_kept"]).items())),
        "frames_kept": frames,
        "hours_kept": round(frames / FPS / 3600, 6),
        "subjects": len(set(_kept(clips, "subject"))),
        "not_selected": inventory.num_not_selected,
        "ignored": inventory.num_ignored,
        "not_taken": inventory.num_not_taken,
    }


def _kept(clips: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    return [row[column] for row in clips if row["is_kept"]]


# ---- objects


def _commit_tables(
    objects: ObjectStore, clips: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]],
    scores: Mapping[str, _Scores],
) -> ObjectRef:  # fmt: skip
    """clips.parquet and sources.parquet as one object whose key is the hash of their contents."""
    columns = _score_columns(clips, scores)
    digest = hashlib.sha256()
    for row in (*clips, *sources):
        digest.update(json.dumps(list(row.values()), ensure_ascii=False).encode())
    for name, values in columns.items():
        digest.update(name.encode() + values.tobytes())
    inputs = {"rows": digest.hexdigest(), "num_clips": len(clips), "num_sources": len(sources)}
    key = object_key("publish", PUBLISH_VERSION, inputs)
    if not objects.exists(key):
        with objects.stage("publish", key, inputs) as staging:
            described = (Column(name, "float64", doc="score; NaN where the clip is not stored") for name in columns)
            write_scalars(staging.path / CLIPS_TABLE, clips, (*_CLIP_COLUMNS, *described), columns)
            write_scalars(staging.path / SOURCES_TABLE, sources, _SOURCE_COLUMNS)
            staging.commit()
    return objects.open(key)


def _score_columns(clips: Sequence[Mapping[str, Any]], scores: Mapping[str, _Scores]) -> dict[str, NDArray[np.float64]]:
    """Score -> [num_clips] float64 in the order of `clips`, for every score of any shard; arrays keep memory small."""
    places: dict[str, list[tuple[int, int]]] = {}
    for number, clip in enumerate(clips):
        if clip["row"] >= 0:
            places.setdefault(clip["shard_id"], []).append((number, clip["row"]))
    names = sorted({name for shard in scores.values() for name in shard})
    out = {name: np.full(len(clips), np.nan) for name in names}
    for shard_id, pairs in places.items():
        numbers, rows = np.array(pairs).T
        for name, values in scores[shard_id].items():
            out[name][numbers] = values[rows]
    return out


def _text(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "string") for name in names)


# What publishing needs of the cut's tables.
_CUT_SOURCE_COLUMNS = (
    "source_id", "state", "reason", "detail", "codec", "width_px", "height_px", "avg_fps", "num_slots", "num_corrupt",
)  # fmt: skip
_CUT_CLIP_COLUMNS = (
    "clip", "source_id", "window", "span", "is_stored", "reason", "detail", "num_frames", "start_s", "has_audio",
    "crop_x_px", "crop_y_px", "crop_side_px", "size_px",
)  # fmt: skip
_CLIP_COLUMNS = (
    *_text("name", "clip", "source_id", "shard_id"),
    Column("row", "int32", doc="row in the tables of its shard, -1 when not stored"),
    Column("window", "int32", doc="1-based among the expected clips of the source"),
    Column("span", "int32"),
    *_text("split"),
    Column("is_kept", "bool"),
    *_text("reason", "detail", "subject", "layout", "emotion", "level", "take", "view"),
    Column("num_frames", "int32"),
    Column("start_s", "float64", unit="s"),
    Column("has_audio", "bool"),
    *(Column(name, "int32", unit="px") for name in ("crop_x_px", "crop_y_px", "crop_side_px", "size_px")),
)
_SOURCE_COLUMNS = (
    *_text("path", "path_hex", "source_id", "layout", "name", "subject", "labels"),
    Column("size_bytes", "int64"),
    *_text("sha256", "audio_sha256", "state", "reason", "detail", "duplicate_of", "shard_id"),
    Column("num_expected", "int32"),
    Column("num_kept", "int32"),
    Column("num_frames_kept", "int64"),
    *_text("codec"),
    Column("width_px", "int32", unit="px"),
    Column("height_px", "int32", unit="px"),
    Column("avg_fps", "float64", unit="Hz"),
    Column("num_slots", "int64"),
    Column("num_corrupt", "int64"),
    Column("seconds", "float64", unit="s"),
)
