"""Lineage of a source: the snapshots that hold it, its clips, and the runs that saw them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from storage.records import Source
from storage.snapshot import Snapshot
from storage.takedowns import Takedown
from tasks.store.lineage.history import (
    GoneSnapshot,
    History,
    ReachedRun,
    UnknownRun,
    kept_clips,
    lost_parents,
    lost_snapshots,
    run_line,
    spread,
    through,
    unknown_runs,
)
from tasks.store.names import Content, Match, NamedSource, fits, is_digits, match_sources, source_rows


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """A snapshot that has a row of a source or holds it in a shard.

    Attributes:
        number, id: The number and the id of the snapshot.
        paths: The paths of the source there.
        state: The state of the source; 'gone' when the file was gone and its clips still lie in the shard.
        reason, detail: The reason of the state.
        splits, num_clips: The splits and the number of its kept clips.
        shards: The ids of the shards that hold it.
    """

    number: int
    id: str
    paths: tuple[str, ...]
    state: str
    reason: str
    detail: str
    splits: tuple[str, ...]
    num_clips: int
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceClip:
    """A kept clip of a source.

    Attributes:
        clip, name, split: See clips.parquet; the name is the latest one.
        since, until: The first and the last number of a snapshot that keeps it in this split.
    """

    clip: str
    name: str
    split: str
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class SourceRun(ReachedRun):
    """A run that a source reached.

    Attributes:
        splits: The splits in which it or one of its parents had the source.
        is_trained_on: True when the training split is one of them.
    """

    splits: tuple[str, ...]
    is_trained_on: bool


@dataclass(frozen=True, slots=True)
class SourceLineage:
    """The places of a source, now and before, and the runs that it reached.

    Attributes:
        sha256: The hash of its video file, '' when nothing records it.
        source_ids, paths, subjects: All that it has or had.
        takedown: Its entry on the list, None when it is not withdrawn.
        snapshots: The snapshots that have a row of it or hold it in a shard.
        since, until: The first and the last number with a kept clip, None when there never was one.
        clips: Each kept clip.
        runs: The runs that it reached, oldest first.
        unknown_runs: The runs of which no record says whether it did.
    """

    sha256: str
    source_ids: tuple[str, ...]
    paths: tuple[str, ...]
    subjects: tuple[str, ...]
    takedown: Takedown | None
    snapshots: tuple[SourceSnapshot, ...]
    since: int | None
    until: int | None
    clips: tuple[SourceClip, ...]
    runs: tuple[SourceRun, ...]
    unknown_runs: tuple[UnknownRun, ...]


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """The lineage of what a name of a source means.

    Attributes:
        name, kind: The name that was asked for, and the kind of thing that it means.
        sources: One for each content that the path has had.
        gone: The collected snapshots; what only they recorded is not in the answer.
    """

    name: str
    kind: Literal["source"]
    sources: tuple[SourceLineage, ...]
    gone: tuple[GoneSnapshot, ...]


def match_stored_sources(history: History, name: str) -> list[Match[NamedSource]]:
    """The sources that `name` can mean: of all snapshots, else withdrawn ones, else those that only shards list."""
    found = match_sources(history.snapshots.values(), name) if name else []
    if found:
        return found
    listed = [
        Match(NamedSource((content_of(entry),)), False, f"withdrawn source {entry.path}")
        for entry in history.takedowns.entries
        if fits(name, entry.path, (entry.sha256, *entry.source_ids)) is not None
    ]
    if listed or not is_digits(name):
        return listed
    ids = {
        member.source_id
        for snapshot in history.snapshots.values()
        for shard in snapshot.body.shards
        for member in shard.members
        if member.source_id.startswith(name)
    }
    return [Match(NamedSource((Content(source_id=one),)), name == one, f"source id {one}") for one in sorted(ids)]


def content_of(entry: Takedown) -> Content:
    """The content that a takedown is about."""
    return Content(sha256=entry.sha256) if entry.sha256 else Content(source_id=entry.source_ids[0])


def source_lineage(history: History, content: Content) -> SourceLineage:
    """The lineage of the source with this content."""
    rows = {
        number: [row for row in source_rows(snapshot) if Content.of(row) == content]
        for number, snapshot in history.snapshots.items()
    }
    takedown = history.takedowns.of(content.sha256, content.source_id)
    ids = {row["source_id"] for found in rows.values() for row in found} | {content.source_id}
    ids |= {*takedown.source_ids} if takedown else set()
    if content.sha256:
        # The id of the video file alone: no audio beside it, no spans.
        ids.add(Source("", "", "", "", "", {}, sha256=content.sha256).source_id)
    ids -= {""}
    clips = {
        number: [row for row in kept_clips(snapshot) if row["source_id"] in ids]
        for number, snapshot in history.snapshots.items()
    }
    lines = [
        line for number, found in rows.items() if (line := _line(history.snapshots[number], found, clips[number], ids))
    ]
    runs = _runs(history, {line.id: frozenset(line.splits) for line in lines if line.splits})
    numbers = [line.number for line in lines if line.num_clips]
    return SourceLineage(
        sha256=content.sha256 or (takedown.sha256 if takedown else ""),
        source_ids=tuple(sorted(ids)),
        paths=_seen(rows, "path"),
        subjects=_seen(rows, "subject"),
        takedown=takedown,
        snapshots=tuple(lines),
        since=min(numbers, default=None),
        until=max(numbers, default=None),
        clips=_lives(clips),
        runs=runs,
        unknown_runs=unknown_runs(
            history, lost_snapshots(history) | lost_parents(history), [line.run for line in runs]
        ),
    )


def _seen(rows: Mapping[int, Sequence[Mapping[str, str]]], column: str) -> tuple[str, ...]:
    return tuple(sorted({row[column] for found in rows.values() for row in found if row[column]}))


def _line(
    snapshot: Snapshot, rows: Sequence[Mapping[str, str]], clips: Sequence[Mapping[str, Any]], ids: Iterable[str]
) -> SourceSnapshot | None:
    """The line of one snapshot, None when it has nothing of the source."""
    shards = shards_with(snapshot, ids)
    if not rows and not shards:
        return None
    # Among twins the one that was cut stands for all.
    row = min(rows, key=lambda row: row["state"] == "duplicate_of") if rows else {"state": "gone"}
    return SourceSnapshot(
        number=snapshot.body.number, id=snapshot.id, paths=tuple(sorted(row["path"] for row in rows)),
        state=row["state"], reason=row.get("reason", ""), detail=row.get("detail", ""),
        splits=tuple(sorted({clip["split"] for clip in clips})), num_clips=len(clips), shards=shards,
    )  # fmt: skip


def shards_with(snapshot: Snapshot, ids: Iterable[str]) -> tuple[str, ...]:
    """Ids of the shards of a snapshot that hold one of these sources."""
    wanted = set(ids)
    return tuple(s.shard_id for s in snapshot.body.shards if any(member.source_id in wanted for member in s.members))


def _runs(history: History, splits: Mapping[str, frozenset[str]]) -> tuple[SourceRun, ...]:
    """The runs that a source reached from the snapshots (id -> its splits there) that keep clips of it."""
    first = {run.id: splits[run.key.snapshot] for run in history.runs.values() if run.key.snapshot in splits}
    reached = spread(history, first)
    return tuple(
        run_line(
            SourceRun, history, history.runs[run_id], splits=tuple(sorted(of_run)), is_trained_on="train" in of_run,
            is_direct=run_id in first, through=through(history, history.runs[run_id], reached),
        )
        for run_id, of_run in reached.items()
    )  # fmt: skip


def _lives(clips: Mapping[int, Sequence[Mapping[str, Any]]]) -> tuple[SourceClip, ...]:
    """Each clip once, with the first and the last snapshot that keeps it in this split."""
    found: dict[tuple[str, str], SourceClip] = {}
    for number, rows in clips.items():
        for row in rows:
            new = SourceClip(row["clip"], row["name"], row["split"], number, number)
            known = found.setdefault((row["clip"], row["split"]), new)
            found[row["clip"], row["split"]] = replace(known, name=row["name"], until=number)
    return tuple(found.values())
