"""Changes of a snapshot against its parent: clips that came and went, settings that differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import TalksetError
from storage.snapshot import Snapshot

NUM_SETTINGS = 30


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences from the parent.

    Attributes:
        number: The number of the parent.
        added, removed: The number of kept clips that are new, and that are kept no longer.
        same: The number of clips that both keep.
        hours: The difference of the kept hours.
        settings: (name, before, now), the first `NUM_SETTINGS`.
        missing: The reason why the parent cannot be compared, '' when it was.
    """

    number: int
    added: int = 0
    removed: int = 0
    same: int = 0
    hours: float = 0.0
    settings: tuple[tuple[str, Any, Any], ...] = ()
    missing: str = ""


def changes_of(snapshot: Snapshot) -> Changes | None:
    """Differences from the parent, None for a first snapshot."""
    if snapshot.body.parent is None:
        return None
    number = snapshot.body.number - 1
    try:
        parent = Snapshot.open(snapshot.store, snapshot.body.parent)
        before, now = _kept(parent), _kept(snapshot)
    except TalksetError:
        return Changes(number, missing=f"snapshot {number} or its tables cannot be read any more")
    old, new = flat_settings(parent.body.config), flat_settings(snapshot.body.config)
    changed = [(name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return Changes(
        number=parent.body.number,
        added=len(now - before),
        removed=len(before - now),
        same=len(now & before),
        hours=snapshot.body.counts["hours_kept"] - parent.body.counts["hours_kept"],
        settings=tuple(changed[:NUM_SETTINGS]),
    )


def _kept(snapshot: Snapshot) -> set[tuple[str, str]]:
    """(name, content) of every kept clip."""
    table = snapshot.clip_table.select(["name", "clip", "is_kept"])
    kept = table.filter(table["is_kept"])
    return set(zip(kept["name"].to_pylist(), kept["clip"].to_pylist(), strict=True))


def flat_settings(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; empty mappings stay."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{where}.{key}" if where else str(key)
        out |= flat_settings(value, name) if isinstance(value, Mapping) and value else {name: value}
    return out
