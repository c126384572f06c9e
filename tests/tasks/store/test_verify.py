"""Verify: any change of any file that a snapshot needs is found and named."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.frame_store import FrameStoreWriter
from storage.keys import sha256_file
from storage.objects import Manifest, ObjectStore, PayloadFile, _digest
from storage.snapshot import Snapshot
from storage.tables import columns_of, read_row, read_schema, read_table, write_scalars, write_table
from tasks.store.verify import Verification, verify_snapshot
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build_store(folder, num_subjects=2, num_frames=(10,))
    return folder


@pytest.fixture
def snapshot(whole: Path, tmp_path: Path) -> Snapshot:
    shutil.copytree(whole, tmp_path / "store")
    return Snapshot.open(tmp_path / "store")


def reseal(snapshot: Snapshot, key: str) -> None:
    """Makes the manifest agree with the files, as a bug in a step would: only the cross checks can notice."""
    objects = ObjectStore(snapshot.store)
    folder, old = objects.path(key), objects.manifest(key)
    files = {}
    for name in old.files:
        digest, size = sha256_file(folder / name)
        files[name] = PayloadFile(bytes=size, sha256=digest)
    text = old.model_copy(update={"files": files, "digest": _digest(files)}).model_dump_json()
    (folder / "manifest.json").chmod(0o644)
    (folder / "manifest.json").write_text(text)
    assert Manifest.model_validate_json(text).key == key


def file_of(snapshot: Snapshot, name: str) -> Path:
    """The first shard's file of this kind."""
    shard = snapshot.body.shards[0]
    places = {
        "data.mdb": (shard.cut.key, "frames/data.mdb"), "clips.parquet": (shard.cut.key, "clips.parquet"),
        "tracks.parquet": (shard.cut.key, "tracks.parquet"), "sources.parquet": (shard.cut.key, "sources.parquet"),
        "mel": (shard.features["mel"].key, "features.parquet"),
        "published clips": (snapshot.body.tables.key, "clips.parquet"),
        "published sources": (snapshot.body.tables.key, "sources.parquet"),
    }  # fmt: skip
    key, file = places[name]
    path = snapshot.objects.path(key) / file
    path.chmod(0o644)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [read_row(path, row) for row in range(len(read_table(path, ["clip"])))]


KINDS = (
    "data.mdb",
    "clips.parquet",
    "tracks.parquet",
    "sources.parquet",
    "mel",
    "published clips",
    "published sources",
)


def test_a_whole_snapshot_has_no_problem_and_every_shard_is_counted(snapshot: Snapshot) -> None:
    ticks: list[None] = []
    assert verify_snapshot(snapshot, lambda: ticks.append(None)) == Verification(1, snapshot.id, True, ())
    assert len(ticks) == len(snapshot.body.shards)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
def test_one_flipped_byte_anywhere_is_found_and_the_file_named(snapshot: Snapshot, kind: str, where: float) -> None:
    path = file_of(snapshot, kind)
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x40
    path.write_bytes(data)
    problems = verify_snapshot(Snapshot.open(snapshot.store)).problems
    assert any(str(path) in problem and "sha256" in problem for problem in problems), problems


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["gone", "empty", "half", "longer"])
def test_missing_and_cut_files_are_named(snapshot: Snapshot, kind: str, size: str) -> None:
    path = file_of(snapshot, kind)
    data = path.read_bytes()
    if size == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "longer": data + b"\0" * 4096}[size])
    problems = verify_snapshot(Snapshot.open(snapshot.store)).problems
    assert any(str(path) in problem for problem in problems), problems


def test_a_missing_object_is_named(snapshot: Snapshot) -> None:
    key = snapshot.body.shards[0].features["sync"].key
    shutil.rmtree(snapshot.objects.path(key))
    assert any(key in problem for problem in verify_snapshot(snapshot).problems)


def test_an_object_that_was_replaced_by_another_valid_one_is_found(snapshot: Snapshot) -> None:
    path = file_of(snapshot, "mel")
    write_table(path, [row | {"mel": 0 * row["mel"]} for row in rows_of(path)], columns_of(read_schema(path)))
    reseal(snapshot, snapshot.body.shards[0].features["mel"].key)
    assert any("the snapshot names" in problem for problem in verify_snapshot(snapshot).problems)


def test_a_missing_row_in_a_feature_table_is_found(snapshot: Snapshot) -> None:
    path = file_of(snapshot, "mel")
    write_table(path, rows_of(path)[:-1], columns_of(read_schema(path)))
    reseal(snapshot, snapshot.body.shards[0].features["mel"].key)
    assert any("rows of mel" in problem for problem in verify_snapshot(snapshot).problems)


@pytest.mark.parametrize(("change", "text"), [("extra", "1 unexpected"), ("lost", "missing")])
def test_lmdb_keys_that_are_no_rows_and_rows_without_keys_are_found(snapshot: Snapshot, change: str, text: str) -> None:
    path = file_of(snapshot, "data.mdb")
    frames = snapshot.frames(snapshot.body.shards[0])
    held = {clip: ([frames.jpeg(clip, i) for i in range(frames.num_frames(clip))], frames.audio(clip)) for clip in frames.clips()}  # fmt: skip
    frames.close()
    shutil.rmtree(path.parent)
    first = next(iter(held))
    with FrameStoreWriter(path.parent) as writer:
        for clip, (jpegs, audio) in held.items():
            if change == "extra" or clip != first:
                writer.put_clip(clip, jpegs, (audio * 32767).astype("<i2"))
    if change == "extra":
        _put(path.parent, b"stray", b"value")
    reseal(snapshot, snapshot.body.shards[0].cut.key)
    problems = verify_snapshot(Snapshot.open(snapshot.store)).problems
    assert any(text in problem and snapshot.body.shards[0].shard_id in problem for problem in problems), problems


def _put(folder: Path, key: bytes, value: bytes) -> None:
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 24, lock=False) as env, env.begin(write=True) as txn:
        txn.put(key, value)


def test_a_snapshot_that_points_at_another_row_is_found(snapshot: Snapshot) -> None:
    path = file_of(snapshot, "published clips")
    rows = read_table(path).to_pylist()
    stored = [row for row in rows if row["shard_id"] == snapshot.body.shards[0].shard_id]
    if len(stored) > 1:
        stored[0]["row"], stored[1]["row"] = stored[1]["row"], stored[0]["row"]
    else:
        stored[0]["row"] = 5
    write_scalars(path, rows, columns_of(read_schema(path)))
    reseal(snapshot, snapshot.body.tables.key)
    assert any("another row" in problem for problem in verify_snapshot(snapshot).problems)
