"""Snapshots: found by what people call them, immutable, published by exactly one of many."""

import json
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from storage import snapshot as snapshots
from storage.errors import ConfigError, SnapshotConflict, StoreCorrupt
from storage.records import Shard
from storage.snapshot import Snapshot, SnapshotBody, bind_store, find_column, publish, snapshot_numbers, store_dataset
from storage.tables import Column
from tests.storage import processes
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two snapshots with pictures and sound."""
    folder = tmp_path_factory.mktemp("store")
    build_store(folder, clips_per_subject=1)
    build_store(folder, clips_per_subject=2)
    return folder


def body_after(parent: Snapshot | None, note: str = "") -> SnapshotBody:
    from storage.objects import ObjectRef

    return SnapshotBody(
        dataset="d", number=parent.body.number + 1 if parent else 1, parent=parent.id if parent else None,
        config={"note": note}, code_version="0", shards=(), tables=ObjectRef("publish", "0" * 64, "0" * 64, 0),
        counts={}, splits={}, skipped_features={},
    )  # fmt: skip


# ---- opening


def test_open_by_latest_number_and_first_digits(store: Path) -> None:
    first, second = Snapshot.open(store, 1), Snapshot.open(store, 2)
    assert second.body.parent == first.id != second.id
    assert Snapshot.open(store).id == Snapshot.open(store, "latest").id == second.id
    for which in ("1", "000001", first.id, first.id[:12], first.id[:6]):
        assert Snapshot.open(store, which).id == first.id
    assert first.id == first.body.snapshot_id()


@pytest.mark.parametrize("which", [3, 0, -1, "3", "000009", "ffffffffffff", "abc", "", "../1", "latest "])
def test_what_is_not_there_is_said_with_what_is(store: Path, which: str | int) -> None:
    with pytest.raises(ConfigError, match="there are 1 to 2"):
        Snapshot.open(store, which)


def test_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="talkset refresh"):
        Snapshot.open(tmp_path)
    assert snapshots.latest(tmp_path) is None


def test_an_id_whose_first_digits_are_all_decimal_is_found(tmp_path: Path) -> None:
    """Six and more decimal digits are the start of an id, fewer are a number."""
    for number in range(2000):
        body = body_after(None, str(number))
        if body.snapshot_id()[:6].isdigit():
            break
    publish(tmp_path, body)
    assert Snapshot.open(tmp_path, body.snapshot_id()[:6]).id == body.snapshot_id()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "", lambda text: text[: len(text) // 2], lambda text: "[]", lambda text: "{}", lambda text: "null",
        lambda text: text.replace('"dataset": "synthetic"', '"dataset": "Synthetic"'),
        lambda text: text.replace('"number": 1', '"number": 1, "extra": 0'),
    ],
)  # fmt: skip
def test_damaged_file_is_named_never_believed(tmp_path: Path, damage) -> None:
    build_store(tmp_path, with_media=False)
    path = tmp_path / "snapshots" / "000001.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(StoreCorrupt, match=r"000001\.json"):
        Snapshot.open(tmp_path)


def test_leftovers_beside_the_snapshots_are_no_snapshots(tmp_path: Path) -> None:
    build_store(tmp_path, with_media=False)
    (tmp_path / "snapshots" / ".000002.json.77-ab.tmp").write_text("{")
    (tmp_path / "snapshots" / "2x.json").write_text("{")
    assert snapshot_numbers(tmp_path) == [1]


# ---- publishing


def test_publish_needs_the_right_parent_and_number(tmp_path: Path) -> None:
    first = publish(tmp_path, body_after(None))
    with pytest.raises(SnapshotConflict):
        publish(tmp_path, body_after(None, "late"))
    second = publish(tmp_path, body_after(first))
    with pytest.raises(SnapshotConflict):
        publish(tmp_path, body_after(first, "late"))
    with pytest.raises(SnapshotConflict):
        publish(tmp_path, body_after(second).model_copy(update={"number": 7}))
    assert snapshot_numbers(tmp_path) == [1, 2]
    assert Snapshot.open(tmp_path).id == second.id


def test_of_many_publishers_exactly_one_wins(tmp_path: Path) -> None:
    """Six processes race for the same next number, five rounds: one wins each, the file is the winner's."""
    parent = None
    for round_ in range(5):
        gate, opener = os.pipe()
        pids = [processes.start(lambda note=f"{round_}.{i}": _race(tmp_path, parent, note, gate)) for i in range(6)]
        os.write(opener, b"x" * 6)
        codes = [processes.wait(pid) for pid in pids]
        os.close(gate)
        os.close(opener)
        assert sorted(codes) == [0, 1, 1, 1, 1, 1]
        parent = Snapshot.open(tmp_path)
        assert parent.body.number == round_ + 1
        assert parent.body.config["note"] == f"{round_}.{codes.index(0)}"
    assert list((tmp_path / "snapshots").glob(".*")) == []


def _race(store: Path, parent: Snapshot | None, note: str, gate: int) -> None:
    body = body_after(parent, note)
    os.read(gate, 1)
    try:
        publish(store, body)
    except SnapshotConflict:
        os._exit(1)


def test_a_store_belongs_to_one_dataset(tmp_path: Path) -> None:
    bind_store(tmp_path / "s", "mead")
    bind_store(tmp_path / "s", "mead")
    assert store_dataset(tmp_path / "s") == "mead"
    with pytest.raises(ConfigError, match="holds dataset 'mead', not 'hdtf'"):
        bind_store(tmp_path / "s", "hdtf")
    with pytest.raises(ConfigError, match="no talkset store"):
        store_dataset(tmp_path)


# ---- the id


def test_id_covers_every_part_of_the_body(store: Path) -> None:
    body = Snapshot.open(store).body
    changed = {
        "dataset": "x", "number": 9, "parent": "x", "config": {}, "code_version": "x", "shards": body.shards[:1],
        "tables": body.shards[0].cut, "counts": {}, "splits": {}, "skipped_features": {"a": "b"}, "schema_version": 2,
    }  # fmt: skip
    assert set(changed) == set(SnapshotBody.model_fields)
    ids = {body.model_copy(update={name: value}).snapshot_id() for name, value in changed.items()}
    assert len(ids | {body.snapshot_id()}) == len(changed) + 1


def test_contents_leave_out_only_place_and_publisher(store: Path) -> None:
    body = Snapshot.open(store).body
    moved = body.model_copy(update={"number": 9, "parent": "x", "code_version": "x"})
    assert moved.contents() == body.contents()
    assert body.model_copy(update={"splits": {}}).contents() != body.contents()


def test_order_of_keys_in_the_file_does_not_matter(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, with_media=False)
    path = tmp_path / "snapshots" / "000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert Snapshot.open(tmp_path).id == snapshot.id


def test_shard_entry_gives_the_shard_it_was_made_of(store: Path) -> None:
    for entry in Snapshot.open(store).body.shards:
        assert entry.shard() == Shard.of(entry.shard().source_ids, entry.minutes)


# ---- reading


def _read(snapshot: Snapshot) -> tuple[int, int, float]:
    clip = snapshot.clips()[0]
    frame, audio = snapshot.frame(clip, clip.num_frames - 1), snapshot.audio(clip)
    return int(frame.sum()), len(audio), float(snapshot.feature(clip, "mel", ["mel"])["mel"].sum())


def test_readers_give_what_the_time_law_says(store: Path) -> None:
    snapshot = Snapshot.open(store)
    assert len(snapshot.clips()) == snapshot.body.counts["clips"]["kept"] == len(snapshot.rows())
    for clip in snapshot.clips():
        assert snapshot.frame(clip, 0).shape == (256, 256, 3)
        assert snapshot.audio(clip).shape == (640 * clip.num_frames,)
        assert snapshot.feature(clip, "landmarks")["landmarks"].shape == (clip.num_frames, 68, 2)
        assert snapshot.tracks(clip)["landmarks"].shape == (clip.num_frames, 68, 2)
        assert snapshot.clip(clip.name) == snapshot.clip(clip.clip) == clip
    by_split = [clip.name for split in snapshot.body.splits for clip in snapshot.clips(split)]
    assert sorted(by_split) == sorted(clip.name for clip in snapshot.clips())


def test_unknown_clip_and_feature_are_named_with_what_there_is(store: Path) -> None:
    snapshot = Snapshot.open(store)
    with pytest.raises(KeyError, match="nobody"):
        snapshot.clip("nobody")
    with pytest.raises(KeyError, match="this snapshot has bbox"):
        snapshot.feature(snapshot.clips()[0], "hubert")


def test_skipped_feature_says_why(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, with_media=False, skipped_features={"blendshapes": "no model file"})
    with pytest.raises(KeyError, match="no model file"):
        snapshot.feature(snapshot.clips()[0], "blendshapes")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_reads(store: Path, method: str) -> None:
    """A snapshot that was read from before travels to forked and spawned workers."""
    snapshot = Snapshot.open(store)
    here = _read(snapshot)
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        assert pool.submit(_read, snapshot).result(60) == here
    assert _read(snapshot) == here


def test_pickle_carries_no_open_file_and_no_table(store: Path) -> None:
    snapshot = Snapshot.open(store)
    _read(snapshot)
    copy = pickle.loads(pickle.dumps(snapshot))
    assert (copy.id, copy.body) == (snapshot.id, snapshot.body)
    assert set(vars(copy)) == {"store", "id", "created_at", "body", "objects", "_frames"}
    assert copy._frames == {}


def test_old_snapshot_reads_the_same_after_the_store_has_grown(tmp_path: Path) -> None:
    old = build_store(tmp_path, clips_per_subject=1)
    before = [old.frame(clip, 0) for clip in old.clips()]
    build_store(tmp_path, clips_per_subject=2)
    reopened = Snapshot.open(tmp_path, 1)
    assert all(
        np.array_equal(frame, reopened.frame(clip, 0)) for frame, clip in zip(before, reopened.clips(), strict=True)
    )


# ---- columns of the features


COLUMNS = {
    "mel": (Column("mel", "float32", ("T80", 80)),),
    "bbox": (Column("bbox", "float32", ("N", 4)), Column("valid", "bool", ("N",))),
    "pose": (Column("valid", "bool", ("N",)),),
}


def test_a_column_is_found_by_its_name_or_with_its_extractor() -> None:
    assert find_column(COLUMNS, "bbox") == ("bbox", COLUMNS["bbox"][0])
    assert find_column(COLUMNS, "bbox.bbox") == ("bbox", COLUMNS["bbox"][0])
    assert find_column(COLUMNS, "pose.valid") == ("pose", COLUMNS["pose"][0])


def test_a_name_of_two_extractors_must_be_qualified() -> None:
    with pytest.raises(ConfigError, match=r"write bbox\.valid or pose\.valid"):
        find_column(COLUMNS, "valid")


@pytest.mark.parametrize("name", ["hubert", "mel.valid", "nothing.mel"])
def test_an_unknown_field_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"mel: mel; bbox: bbox, valid; pose: valid"):
        find_column(COLUMNS, name)
