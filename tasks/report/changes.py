"""Changes of a snapshot against its parent: clips that came and went, settings that differ."""

from dataclasses import dataclass
from typing import Any

from storage.errors import TalksetError
from storage.snapshot import Snapshot
from tasks.report.settings import flat

NUM_SETTINGS = 30


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the parent.

    Attributes:
        number: of the parent.
        added, removed: kept clips that are new, and that are kept no longer.
        same: kept clips of both.
        hours: difference of the kept hours.
        settings: (name, before, now), the first `NUM_SETTINGS`.
        missing: why the parent cannot be compared, '' when it was.
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
    return Changes(
        number=parent.body.number,
        added=len(now - before),
        removed=len(before - now),
        same=len(now & before),
        hours=snapshot.body.counts["hours_kept"] - parent.body.counts["hours_kept"],
        settings=_settings(flat(parent.body.config), flat(snapshot.body.config)),
    )


def _kept(snapshot: Snapshot) -> set[tuple[str, str]]:
    """(name, content) of every kept clip."""
    table = snapshot.clip_table.select(["name", "clip", "is_kept"])
    kept = table.filter(table["is_kept"])
    return set(zip(kept["name"].to_pylist(), kept["clip"].to_pylist(), strict=True))


def _settings(before: dict[str, Any], now: dict[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    names = sorted(set(before) | set(now))
    changed = [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]
    return tuple(changed[:NUM_SETTINGS])
