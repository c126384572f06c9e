"""Garbage collection: what a kept snapshot reaches, what is pinned and what is young stays."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.catalog import Threshold
from storage.errors import ConfigError, LockedError
from storage.keys import object_key
from storage.lock import writer_lock
from storage.objects import ObjectStore
from storage.snapshot import Snapshot, snapshot_numbers
from tasks.store.gc import collect, find_garbage, remove_garbage
from tasks.store.verify import verify_snapshot
from tests.synthetic_store import build_store


def grow(store: Path) -> list[Snapshot]:
    """Three snapshots: one subject set, more clips, other thresholds."""
    first = build_store(store, clips_per_subject=1, num_frames=(10,))
    second = build_store(store, clips_per_subject=2, num_frames=(10,))
    return [first, second, build_store(store, clips_per_subject=2, num_frames=(10,), thresholds={"sync_confidence": Threshold(min=9)})]  # fmt: skip


def keys_of(*snapshots: Snapshot) -> set[str]:
    return {ref.key for snapshot in snapshots for ref in snapshot.body.objects()}


def orphan(store: Path, age: timedelta = timedelta(), name: str = "x") -> str:
    """A committed object nobody needs, committed `age` ago."""
    objects, key = ObjectStore(store), object_key("orphan", 1, {"name": name})
    with objects.stage("orphan", key, {}) as staging:
        (staging.path / "payload").write_bytes(b"12345")
        staging.commit()
    path = objects.path(key) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["committed_at"] = (datetime.now(UTC) - age).isoformat(timespec="seconds")
    path.chmod(0o644)
    path.write_text(json.dumps(manifest))
    return key


def test_only_what_no_kept_snapshot_reaches_goes_and_verify_stays_content(tmp_path: Path) -> None:
    first, second, third = grow(tmp_path)
    garbage = find_garbage(tmp_path, keep=1, grace_hours=0)
    assert set(garbage.keys) == keys_of(first, second) - keys_of(third)
    assert garbage.snapshots == (1, 2)
    remove_garbage(tmp_path, garbage)
    assert set(ObjectStore(tmp_path).keys()) == keys_of(third)
    assert snapshot_numbers(tmp_path) == [3]
    assert verify_snapshot(Snapshot.open(tmp_path)).is_whole
    assert list((tmp_path / "staging").glob("*")) == []
    with pytest.raises(ConfigError, match="no snapshot 1"):
        Snapshot.open(tmp_path, 1)


def test_nothing_is_garbage_while_all_snapshots_are_kept(tmp_path: Path) -> None:
    grow(tmp_path)
    garbage = find_garbage(tmp_path, keep=3, grace_hours=0)
    assert (garbage.keys, garbage.snapshots, garbage.num_bytes, garbage.num_young) == ((), (), 0, 0)


def test_a_pinned_snapshot_is_kept_whole(tmp_path: Path) -> None:
    first, _, third = grow(tmp_path)
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "edtalk-run-7").write_text(first.id + "\n")
    remove_garbage(tmp_path, find_garbage(tmp_path, keep=1, grace_hours=0))
    assert snapshot_numbers(tmp_path) == [1, 3]
    assert all(verify_snapshot(Snapshot.open(tmp_path, number)).is_whole for number in (1, 3))
    assert set(ObjectStore(tmp_path).keys()) == keys_of(first, third)


def test_young_objects_stay_a_refresh_may_be_about_to_publish_them(tmp_path: Path) -> None:
    grow(tmp_path)
    young, old = orphan(tmp_path, timedelta(hours=23), "a"), orphan(tmp_path, timedelta(hours=25), "b")
    garbage = find_garbage(tmp_path, keep=3, grace_hours=24)
    assert (garbage.keys, garbage.num_young, garbage.num_bytes) == ((old,), 1, 5)
    remove_garbage(tmp_path, garbage)
    assert ObjectStore(tmp_path).exists(young)
    assert not ObjectStore(tmp_path).exists(old)


def test_looking_removes_nothing(tmp_path: Path) -> None:
    grow(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    find_garbage(tmp_path, keep=1, grace_hours=0)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_newest_snapshot_survives_any_demand(tmp_path: Path) -> None:
    third = grow(tmp_path)[-1]
    remove_garbage(tmp_path, find_garbage(tmp_path, keep=0, grace_hours=0))
    assert Snapshot.open(tmp_path).id == third.id


def test_the_next_snapshot_continues_the_line(tmp_path: Path) -> None:
    third = grow(tmp_path)[-1]
    remove_garbage(tmp_path, find_garbage(tmp_path, keep=1, grace_hours=0))
    fourth = build_store(tmp_path, clips_per_subject=1, num_frames=(10,))
    assert (fourth.body.number, fourth.body.parent) == (4, third.id)
    assert verify_snapshot(fourth).is_whole


def test_reports_of_collected_snapshots_go_with_them(tmp_path: Path) -> None:
    """They show frames of what may have been taken down."""
    grow(tmp_path)
    for number in (1, 2, 3):
        (tmp_path / "reports" / f"{number:06d}").mkdir(parents=True)
        (tmp_path / "reports" / f"{number:06d}" / "index.html").write_text("frames")
    answer = collect(tmp_path, keep=1, grace_hours=0, is_dry=True)
    assert (answer.removed, answer.snapshots) == (False, (1, 2))
    assert len(list((tmp_path / "reports").iterdir())) == 3
    assert collect(tmp_path, keep=1, grace_hours=0, is_dry=False).objects == answer.objects > 0
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["000003"]


def test_a_store_that_is_written_to_is_left_alone(tmp_path: Path) -> None:
    grow(tmp_path)
    with writer_lock(tmp_path), pytest.raises(LockedError):
        collect(tmp_path, keep=1, grace_hours=0, is_dry=False)
