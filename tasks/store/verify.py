"""Verify: read every byte a snapshot needs and hold frames, rows and manifests against each other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from storage.cut_tables import CLIP_KEY, CLIPS_FILE, TRACKS_FILE
from storage.errors import StoreCorrupt
from storage.objects import ObjectRef
from storage.snapshot import FEATURES_TABLE, ShardEntry, Snapshot
from storage.tables import read_table

_PLACE = (CLIP_KEY.name, "shard_id", "row")


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of comparing every byte of a snapshot with what was published.

    Attributes:
        snapshot, id: The number and the id of the snapshot.
        is_whole: True when no problem was found.
        problems: The problems, one line each, with the file or shard.
    """

    snapshot: int
    id: str
    is_whole: bool
    problems: tuple[str, ...]


def verify_snapshot(snapshot: Snapshot, progress: Callable[[], None] = lambda: None) -> Verification:
    """Compares the digests of every object; LMDB keys, Parquet rows and the snapshot's rows must agree.

    Args:
        snapshot: The snapshot to verify.
        progress: Called once per shard.
    """
    problems: list[str] = []
    for ref in snapshot.body.objects():
        problems += _caught(lambda ref=ref: _check_object(snapshot, ref))
    rows: dict[str, dict[str, int]] = {}
    problems += _caught(lambda: _collect_rows(snapshot, rows))
    for shard in snapshot.body.shards:
        own = rows.get(shard.shard_id, {})
        problems += _caught(lambda shard=shard, own=own: list(_check_shard(snapshot, shard, own)))
        progress()
    return Verification(snapshot.body.number, snapshot.id, not problems, tuple(problems))


def _caught(check: Callable[[], list[str] | None]) -> list[str]:
    try:
        return check() or []
    except (StoreCorrupt, KeyError, OSError) as error:
        return [str(error)]


def _collect_rows(snapshot: Snapshot, rows: dict[str, dict[str, int]]) -> None:
    """Adds shard id -> clip -> row of the published table."""
    for clip, shard_id, row in zip(*(snapshot.clip_table[name].to_pylist() for name in _PLACE), strict=True):
        rows.setdefault(shard_id, {})[clip] = row


def _check_object(snapshot: Snapshot, ref: ObjectRef) -> None:
    snapshot.objects.verify(ref.key)
    found = snapshot.objects.open(ref.key).digest
    if found != ref.digest:
        path = snapshot.objects.path(ref.key)
        raise StoreCorrupt(f"{path}: digest {found[:12]}, the snapshot names {ref.digest[:12]}")


def _check_shard(snapshot: Snapshot, shard: ShardEntry, rows: dict[str, int]) -> Iterator[str]:
    folder = snapshot.objects.path(shard.cut.key)
    clips = read_table(folder / CLIPS_FILE, [CLIP_KEY.name, "num_frames", "is_stored"]).to_pylist()
    stored = [row for row in clips if row["is_stored"]]
    names = [row["clip"] for row in stored]
    expected = {f"{row['clip']}-{index:07d}" for row in stored for index in range(row["num_frames"])}
    expected |= {f"{name}-{kind}" for name in names for kind in ("length", "audio")}
    found = set(snapshot.frames(shard).keys())
    if found != expected:
        yield f"shard {shard.shard_id}: {len(expected - found)} LMDB keys missing, {len(found - expected)} unexpected"
    tables = {"tracks": folder / TRACKS_FILE}
    for name, ref in shard.features.items():
        tables[name] = snapshot.objects.path(ref.key) / FEATURES_TABLE
    for name, path in tables.items():
        if read_table(path, [CLIP_KEY.name])[CLIP_KEY.name].to_pylist() != names:
            place = "/".join(path.parts[-2:])
            yield f"shard {shard.shard_id}: rows of {name} are not the stored clips ({place})"
    wrong = [clip for clip, row in rows.items() if row >= 0 and (row >= len(names) or names[row] != clip)]
    if wrong:
        yield f"shard {shard.shard_id}: the snapshot points clip {wrong[0]} at another row"
