"""Diff: what changed between two snapshots of a dataset."""

from typing import Any

from storage.snapshot import Snapshot


def diff_snapshots(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """What differs, as plain values.

    Returns:
        'sources': added, removed, changed (same path, other content), renamed (same content, other path), and those in
        another state; 'clips': added, removed, changed (other content), kept now, dropped now; 'config': settings.
    """
    before = {row["path"]: row for row in old.source_table.to_pylist()}
    after = {row["path"]: row for row in new.source_table.to_pylist()}
    gone, fresh = set(before) - set(after), set(after) - set(before)
    renamed = _renamed({path: before[path] for path in gone}, {path: after[path] for path in fresh})
    both = sorted(set(before) & set(after))
    return {
        "old": old.body.number,
        "new": new.body.number,
        "sources": {
            "added": sorted(fresh - set(renamed.values())),
            "removed": sorted(gone - set(renamed)),
            "renamed": [{"from": path, "to": renamed[path]} for path in sorted(renamed)],
            "changed": [path for path in both if _is_changed(before[path], after[path])],
            "state": [
                {"path": path, "from": before[path]["state"], "to": after[path]["state"]}
                for path in both
                if before[path]["state"] != after[path]["state"]
            ],
        },
        "clips": _clips(old, new),
        "config": _settings(old.body.config, new.body.config),
    }


def _is_changed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Other contents: by id (video, audio and spans) where both have one, else by the bytes of the video alone."""
    column = "source_id" if before["source_id"] and after["source_id"] else "sha256"
    return before[column] != after[column]


def _renamed(gone: dict[str, dict[str, Any]], fresh: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Old path -> new path of equal content; each path is used once."""
    by_content: dict[str, list[str]] = {}
    for path in sorted(fresh):
        by_content.setdefault(fresh[path]["sha256"], []).append(path)
    pairs = {}
    for path in sorted(gone):
        if gone[path]["sha256"] and by_content.get(gone[path]["sha256"]):
            pairs[path] = by_content[gone[path]["sha256"]].pop(0)
    return pairs


def _clips(old: Snapshot, new: Snapshot) -> dict[str, list[str]]:
    before = {row["name"]: row for row in old.rows(kept=False)}
    after = {row["name"]: row for row in new.rows(kept=False)}
    both = sorted(set(before) & set(after))
    return {
        "added": sorted(set(after) - set(before)),
        "removed": sorted(set(before) - set(after)),
        "changed": [name for name in both if before[name]["clip"] != after[name]["clip"]],
        "kept_now": [name for name in both if after[name]["is_kept"] and not before[name]["is_kept"]],
        "dropped_now": [name for name in both if before[name]["is_kept"] and not after[name]["is_kept"]],
    }


def _settings(old: Any, new: Any, where: str = "") -> dict[str, dict[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        out: dict[str, dict[str, Any]] = {}
        for key in sorted(set(old) | set(new)):
            out |= _settings(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        return out
    return {} if old == new else {where: {"from": old, "to": new}}
