"""Lineage of a source: the snapshots that hold it, its clips, and the runs that saw them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.keys import sha256_hex
from storage.records import Source
from storage.snapshot import Snapshot
from storage.takedowns import Takedown
from tasks.inventory import escape_path
from tasks.store.lineage.history import (
    History,
    kept_clips,
    lost_parents,
    lost_snapshots,
    run_lines,
    source_rows,
    unknown_runs,
)
from tasks.store.lineage.names import Match, is_digits

# All empty files have one hash, but nothing in common.
_EMPTY_SHA256 = sha256_hex(b"")


@dataclass(frozen=True, slots=True)
class Content:
    """What a source contains, whatever it is called; exactly one of the three is set.

    Attributes:
        sha256: of its video file.
        source_id: of a source that only shards still know.
        path_hex: of one that could not be read, or is empty: there is nothing but its path.
    """

    sha256: str = ""
    source_id: str = ""
    path_hex: str = ""


def match_sources(history: History, name: str) -> list[Match]:
    """What `name` can mean: a path or the end of one, a base name, the first digits (6 or more) of an id or hash."""
    # People paste what a listing shows (escaped) or what their shell shows.
    texts = {escape_path(name)} | ({name} if name.isprintable() else set())
    paths: dict[bool, dict[Content, set[str]]] = {True: {}, False: {}}
    for snapshot in history.snapshots.values():
        for row in source_rows(snapshot):
            is_exact = _is_meant(row, texts)
            if is_exact is not None:
                paths[is_exact].setdefault(_content(row), set()).add(row["path"])
    if not paths[True] and not paths[False]:
        return _match_unlisted(history, name)
    return [*_grouped(paths[True], is_exact=True), *_grouped(paths[False], is_exact=False)]


def _is_meant(row: Mapping[str, str], texts: Iterable[str]) -> bool | None:
    """True when a text is the row's whole path, name, id or hash, False when it is a part, None when it is neither."""
    names = (row["path"], row["name"], row["source_id"], row["sha256"])
    if any(text and text in names for text in texts):
        return True
    is_part = any(text and row["path"].endswith(f"/{text}") for text in texts) or any(
        is_digits(text) and (row["source_id"].startswith(text) or row["sha256"].startswith(text)) for text in texts
    )
    return False if is_part else None


def _content(row: Mapping[str, str]) -> Content:
    has_content = row["sha256"] not in ("", _EMPTY_SHA256)
    return Content(sha256=row["sha256"]) if has_content else Content(path_hex=row["path_hex"])


def _grouped(found: Mapping[Content, set[str]], is_exact: bool) -> list[Match]:
    """One match for one path, whatever it held; else one for each content."""
    all_paths = sorted(set().union(*found.values()))
    if len(all_paths) == 1:
        return [Match("source", is_exact, f"source {all_paths[0]}", tuple(found))]
    return [Match("source", is_exact, _label(content, paths), (content,)) for content, paths in found.items()]


def _label(content: Content, paths: Iterable[str]) -> str:
    digits = f" (sha256 {content.sha256[:12]})" if content.sha256 else ""
    return f"source {' = '.join(sorted(paths))}{digits}"


def _match_unlisted(history: History, name: str) -> list[Match]:
    """Sources that no table knows any more: withdrawn ones, and those whose clips still lie in shards."""
    listed = [
        Match("source", False, f"withdrawn source {entry.path}", (_content_of(entry),))
        for entry in history.takedowns.entries
        if entry.is_called(name)
    ]
    if listed or not is_digits(name):
        return listed
    found = {
        member.source_id
        for snapshot in history.snapshots.values()
        for shard in snapshot.body.shards
        for member in shard.members
        if member.source_id.startswith(name)
    }
    return [Match("source", name == one, f"source id {one}", (Content(source_id=one),)) for one in sorted(found)]


def _content_of(entry: Takedown) -> Content:
    return Content(sha256=entry.sha256) if entry.sha256 else Content(source_id=entry.source_ids[0])


def source_lineage(history: History, content: Content) -> dict[str, Any]:
    """Where a source is and was, and which runs saw it.

    Returns:
        'sha256', 'source_ids', 'paths', 'subjects', 'takedown' (its entry on the list, or None);
        'snapshots': those that have a row of it or hold it in a shard, each with 'number', 'id', 'paths', 'state'
        ('gone': the file was gone, its clips still lie in the shard), 'reason', 'detail', 'splits' and 'num_clips' of
        its kept clips, 'shards' that hold it;
        'since', 'until': first and last number with a kept clip, None when there never was one;
        'clips': each kept clip with 'clip' (key), 'name', 'split', 'since', 'until';
        'runs': see `run_lines`; 'unknown_runs': see `unknown_runs`.
    """
    rows = {number: _rows(snapshot, content) for number, snapshot in history.snapshots.items()}
    ids = _ids(history, content, [row for found in rows.values() for row in found])
    clips = {number: _clips(history.snapshots[number], ids) for number in rows}
    lines = [
        line for number, found in rows.items() if (line := _line(history.snapshots[number], found, clips[number], ids))
    ]
    splits = {line["id"]: frozenset(line["splits"]) for line in lines if line["splits"]}
    first = {run.id: splits[run.key.snapshot] for run in history.runs.values() if run.key.snapshot in splits}
    runs = run_lines(history, first)
    numbers = [line["number"] for line in lines if line["num_clips"]]
    takedown = history.takedowns.of(content.sha256, content.source_id)
    return {
        "sha256": content.sha256 or (takedown.sha256 if takedown else ""),
        "source_ids": sorted(ids),
        "paths": _seen(rows, "path"),
        "subjects": _seen(rows, "subject"),
        "takedown": takedown.model_dump(mode="json") if takedown else None,
        "snapshots": lines,
        "since": min(numbers, default=None),
        "until": max(numbers, default=None),
        "clips": _lives(clips),
        "runs": runs,
        "unknown_runs": unknown_runs(
            history, lost_snapshots(history) | lost_parents(history), [line["run"] for line in runs]
        ),
    }


def _rows(snapshot: Snapshot, content: Content) -> list[dict[str, Any]]:
    return [row for row in source_rows(snapshot) if _content(row) == content]


def _seen(rows: Mapping[int, Sequence[Mapping[str, str]]], column: str) -> list[str]:
    return sorted({row[column] for found in rows.values() for row in found if row[column]})


def _ids(history: History, content: Content, rows: Sequence[Mapping[str, str]]) -> frozenset[str]:
    """Every id the source may have in a shard."""
    ids = {row["source_id"] for row in rows} | {content.source_id}
    takedown = history.takedowns.of(content.sha256, content.source_id)
    ids |= {*takedown.source_ids} if takedown else set()
    if content.sha256:
        ids.add(plain_id(content.sha256))
    return frozenset(ids - {""})


def plain_id(sha256: str) -> str:
    """Id of a source that is a video file and nothing else: no audio beside it, no spans."""
    return Source("", "", "", "", "", {}, sha256=sha256).source_id


def _clips(snapshot: Snapshot, ids: frozenset[str]) -> list[dict[str, Any]]:
    return [row for row in kept_clips(snapshot) if row["source_id"] in ids]


def _line(
    snapshot: Snapshot, rows: Sequence[Mapping[str, str]], clips: Sequence[Mapping[str, Any]], ids: frozenset[str]
) -> dict[str, Any] | None:
    """One snapshot as a source sees it, None when it knows nothing of it."""
    shards = shards_with(snapshot, ids)
    if not rows and not shards:
        return None
    # Among twins the one that was worked on speaks for all.
    row = min(rows, key=lambda row: row["state"] == "duplicate_of") if rows else {"state": "gone"}
    return {
        "number": snapshot.body.number, "id": snapshot.id, "paths": sorted(row["path"] for row in rows),
        "state": row["state"], "reason": row.get("reason", ""), "detail": row.get("detail", ""),
        "splits": sorted({clip["split"] for clip in clips}), "num_clips": len(clips), "shards": shards,
    }  # fmt: skip


def shards_with(snapshot: Snapshot, ids: Iterable[str]) -> list[str]:
    """Ids of the shards of a snapshot that hold one of these sources."""
    wanted = set(ids)
    return [s.shard_id for s in snapshot.body.shards if any(member.source_id in wanted for member in s.members)]


def _lives(clips: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each clip once, with the first and the last snapshot that keeps it in this split."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number, rows in clips.items():
        for row in rows:
            new = {"clip": row["clip"], "name": row["name"], "split": row["split"], "since": number}
            found.setdefault((row["clip"], row["split"]), new).update(name=row["name"], until=number)
    return list(found.values())
