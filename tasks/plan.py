"""Plan: which shards a refresh consists of. Pure: inventory and the parent snapshot's shards in, shards out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from storage.records import Shard, Source

# A source whose header says nothing counts as this long; also the floor, so that many tiny files share shards sanely.
_UNKNOWN_S = 5.0
_MIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards of a refresh and what happens to each source before any is cut.

    Attributes:
        shards: old ones that stay, then new ones.
        by_id: source id -> the source that stands for it (the first by path among equal ones).
        duplicates: path_hex of a source -> path of the source whose content it repeats.
    """

    shards: tuple[Shard, ...]
    by_id: Mapping[str, Source]
    duplicates: Mapping[str, str]


def make_plan(
    sources: Sequence[Source], parent_shards: Sequence[Shard], reusable: Iterable[str], shard_minutes: float,
    taken_down: Collection[str] = (),
) -> Plan:  # fmt: skip
    """Unchanged sources stay in the shard they have; new or changed ones form new shards.

    Args:
        sources: of the inventory, sorted by path.
        parent_shards: of the parent snapshot, in its order.
        reusable: ids of the parent's shards whose cut is valid under today's rules; they may keep sources that are
            gone. Any other shard with a source that is gone is formed anew.
        shard_minutes: video time of a new shard.
        taken_down: ids of withdrawn sources. A shard with one of them is dissolved, however much of it lives: what
            was made of it together still contains the source.

    Returns:
        Shards that together hold every usable, distinct source exactly once. A parent shard whose live share falls
        below half is dissolved and its live sources are packed anew.
    """
    by_id, duplicates = _distinct(sources)
    kept: list[Shard] = []
    placed: set[str] = set()
    valid, withdrawn = set(reusable), set(taken_down)
    for shard in parent_shards:
        if withdrawn.intersection(shard.source_ids):
            continue
        live = [source for source in shard.source_ids if source in by_id and source not in placed]
        is_whole = len(live) == len(shard.source_ids)
        if is_whole or (shard.shard_id in valid and 2 * len(live) >= len(shard.source_ids)):
            kept.append(shard)
            placed.update(live)
    fresh = [source for source_id, source in by_id.items() if source_id not in placed]
    return Plan((*kept, *_pack(fresh, shard_minutes)), by_id, duplicates)


def _distinct(sources: Sequence[Source]) -> tuple[dict[str, Source], dict[str, str]]:
    """First source of each content, and which others repeat it."""
    by_id: dict[str, Source] = {}
    duplicates: dict[str, str] = {}
    for source in sources:
        if not source.is_usable:
            continue
        first = by_id.setdefault(source.source_id, source)
        if first is not source:
            duplicates[source.path_hex] = first.path
    return by_id, duplicates


def _pack(sources: Iterable[Source], shard_minutes: float) -> list[Shard]:
    """Shards of about `shard_minutes`, subjects kept together as far as they fit."""
    shards: list[Shard] = []
    ids: list[str] = []
    seconds = 0.0
    for source in sorted(sources, key=lambda source: (source.layout, source.subject, source.path_hex)):
        length = max(_MIN_S, source.seconds or _UNKNOWN_S)
        if ids and seconds + length > shard_minutes * 60:
            shards.append(Shard.of(tuple(ids), round(seconds / 60, 3)))
            ids, seconds = [], 0.0
        ids.append(source.source_id)
        seconds += length
    if ids:
        shards.append(Shard.of(tuple(ids), round(seconds / 60, 3)))
    return shards
