"""Diff: what changed between two snapshots of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Change:
    """A value before and after; in JSON 'from' and 'to'."""

    from_: Any
    to: Any


@dataclass(frozen=True, slots=True)
class StateChange:
    """A source that ended in another state; in JSON 'path', 'from' and 'to'."""

    path: str
    from_: str
    to: str


@dataclass(frozen=True, slots=True)
class SourceChanges:
    """Paths of sources that differ.

    Attributes:
        added, removed: Paths of one snapshot only, whose content is not in the other one either.
        renamed: Old and new path of equal content.
        changed: Paths with other content.
        state: Paths with another state.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: tuple[Change, ...]
    changed: tuple[str, ...]
    state: tuple[StateChange, ...]


@dataclass(frozen=True, slots=True)
class ClipChanges:
    """Names of clips that differ.

    Attributes:
        added, removed: Clips that are expected in one snapshot only.
        changed: Clips with other content.
        kept_now, dropped_now: Clips that are kept in one snapshot only.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    kept_now: tuple[str, ...]
    dropped_now: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SnapshotDiff:
    """The differences between two snapshots.

    Attributes:
        old, new: The numbers of the snapshots.
        sources, clips: The sources and clips that differ.
        config: Setting, its keys joined by dots -> its values; None where a snapshot lacks it.
    """

    old: int
    new: int
    sources: SourceChanges
    clips: ClipChanges
    config: Mapping[str, Change]


def diff_snapshots(old: Snapshot, new: Snapshot) -> SnapshotDiff:
    """Sources, clips and settings that differ between two snapshots of one store."""
    before = {row["path"]: row for row in old.source_table.to_pylist()}
    after = {row["path"]: row for row in new.source_table.to_pylist()}
    gone, fresh = set(before) - set(after), set(after) - set(before)
    renamed = _renamed({path: before[path] for path in gone}, {path: after[path] for path in fresh})
    both = sorted(set(before) & set(after))
    sources = SourceChanges(
        added=tuple(sorted(fresh - set(renamed.values()))),
        removed=tuple(sorted(gone - set(renamed))),
        renamed=tuple(Change(path, renamed[path]) for path in sorted(renamed)),
        changed=tuple(path for path in both if _is_changed(before[path], after[path])),
        state=tuple(
            StateChange(path, before[path]["state"], after[path]["state"])
            for path in both
            if before[path]["state"] != after[path]["state"]
        ),
    )
    return SnapshotDiff(
        old=old.body.number,
        new=new.body.number,
        sources=sources,
        clips=clip_changes(old, new),
        config=changed_settings(old.body.config, new.body.config),
    )


def _is_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Other contents: by id (video, audio and spans) where both have one, else by the bytes of the video alone."""
    column = "source_id" if before["source_id"] and after["source_id"] else "sha256"
    return before[column] != after[column]


def _renamed(gone: Mapping[str, Mapping[str, Any]], fresh: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Old path -> new path of equal content; each path is used once."""
    by_content: dict[str, list[str]] = {}
    for path in sorted(fresh):
        by_content.setdefault(fresh[path]["sha256"], []).append(path)
    pairs = {}
    for path in sorted(gone):
        if gone[path]["sha256"] and by_content.get(gone[path]["sha256"]):
            pairs[path] = by_content[gone[path]["sha256"]].pop(0)
    return pairs


def clip_changes(old: Snapshot, new: Snapshot) -> ClipChanges:
    """Clips, by name, that differ between two snapshots."""
    before = {row["name"]: row for row in old.rows(kept=False)}
    after = {row["name"]: row for row in new.rows(kept=False)}
    both = sorted(set(before) & set(after))
    return ClipChanges(
        added=tuple(sorted(set(after) - set(before))),
        removed=tuple(sorted(set(before) - set(after))),
        changed=tuple(name for name in both if before[name]["clip"] != after[name]["clip"]),
        kept_now=tuple(name for name in both if after[name]["is_kept"] and not before[name]["is_kept"]),
        dropped_now=tuple(name for name in both if before[name]["is_kept"] and not after[name]["is_kept"]),
    )


def changed_settings(old: Any, new: Any, where: str = "") -> dict[str, Change]:
    """Settings of two configurations that differ: keys joined by dots -> values, None where there is none.

    Args:
        old, new: A block of the configuration, or a value of it.
        where: The name of that block or value, '' for the whole.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        out: dict[str, Change] = {}
        for key in sorted(set(old) | set(new)):
            out |= changed_settings(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        return out
    return {} if old == new else {where: Change(old, new)}
