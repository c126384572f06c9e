import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from storage.errors import OutOfSpace, StoreCorrupt
from storage.frame_store import FrameStore, FrameStoreWriter, record_digests
from storage.keys import object_key
from storage.objects import ObjectStore
from tests.storage import processes

CLIPS = {"M003#angry#level_1#001": 5, "RD_Radio1_000#1": 3, "RD_Radio1_000#10": 1, "é clip-length": 2}


def jpegs(num_frames: int, seed: int = 0) -> list[bytes]:
    return [np.random.default_rng([seed, number]).bytes(3000 + 997 * number % 5000) for number in range(num_frames)]


def pcm(num_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, 640 * num_frames).astype(np.int16)


def write(path: Path, clips: dict[str, int] = CLIPS, **options) -> Path:
    with FrameStoreWriter(path, **options) as writer:
        for clip, num_frames in clips.items():
            writer.put_clip(clip, jpegs(num_frames), pcm(num_frames))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256((path / "data.mdb").read_bytes()).hexdigest()


def read_all(store: FrameStore) -> None:
    for clip in store.clips():
        for index in range(store.num_frames(clip)):
            store.jpeg(clip, index)
        store.audio(clip)


# ---- content


def test_round_trip(tmp_path):
    store = FrameStore(write(tmp_path / "frames"))
    assert store.clips() == tuple(sorted(CLIPS, key=str.encode))
    for clip, num_frames in CLIPS.items():
        assert store.num_frames(clip) == num_frames
        assert [store.jpeg(clip, index) for index in range(num_frames)] == jpegs(num_frames)
        audio = store.audio(clip)
        assert (audio.dtype, audio.shape) == (np.float32, (640 * num_frames,))
        np.testing.assert_array_equal(np.round(audio * 32768).astype(np.int16), pcm(num_frames))
    assert os.listdir(tmp_path / "frames") == ["data.mdb"]


def test_keys_and_values_are_those_of_the_format(tmp_path):
    write(tmp_path / "frames", {"RD_Radio1_000#1": 2})
    options = {"max_readers": 32, "readonly": True, "lock": False, "readahead": False}
    with lmdb.open(str(tmp_path / "frames"), **options) as env, env.begin() as txn:
        assert txn.get(b"RD_Radio1_000#1-length") == b"0000002"
        assert txn.get(b"RD_Radio1_000#1-0000001") == jpegs(2)[1]
        assert txn.get(b"RD_Radio1_000#1-audio") == pcm(2).astype("<i2").tobytes()
        assert txn.stat()["entries"] == 4


def test_frames_are_decoded_to_rgb(tmp_path):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :, 2] = 250  # red in OpenCV's BGR
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    with FrameStoreWriter(tmp_path / "frames") as writer:
        writer.put_clip("a", [encoded], pcm(1))
    frame = FrameStore(tmp_path / "frames").frame("a", 0)
    assert (frame.dtype, frame.shape) == (np.uint8, (32, 48, 3))
    assert frame[..., 0].min() > 240
    assert frame[..., 1:].max() < 10


def test_what_is_not_there(tmp_path):
    store = FrameStore(write(tmp_path / "frames"))
    for index in (-1, 5, 10**8):
        with pytest.raises(IndexError):
            store.jpeg("M003#angry#level_1#001", index)
    for read in (store.num_frames, store.audio, lambda clip: store.frame(clip, 0)):
        with pytest.raises(KeyError, match="nobody"):
            read("nobody")
    with pytest.raises(StoreCorrupt, match="not an image"):
        store.frame("RD_Radio1_000#1", 0)


@pytest.mark.parametrize(
    ("clip", "frames", "audio"),
    [
        ("RD_Radio1_000#1", jpegs(1), pcm(1)),
        ("new", jpegs(2), pcm(1)),
        ("new", jpegs(1), pcm(1).astype(np.int32)),
        ("new", [], pcm(0)),
        ("new", [b""], pcm(1)),
        ("", jpegs(1), pcm(1)),
        ("x" * 481, jpegs(1), pcm(1)),
        ("a\0b", jpegs(1), pcm(1)),
    ],
)
def test_writer_refuses_what_breaks_the_format(tmp_path, clip, frames, audio):
    with FrameStoreWriter(tmp_path / "frames") as writer:
        writer.put_clip("RD_Radio1_000#1", jpegs(3), pcm(3))
        with pytest.raises(ValueError):
            writer.put_clip(clip, frames, audio)
    store = FrameStore(tmp_path / "frames")
    assert store.clips() == ("RD_Radio1_000#1",)
    assert store.num_frames("RD_Radio1_000#1") == 3


def test_longest_name_and_no_clips_at_all(tmp_path):
    assert FrameStore(write(tmp_path / "long", {"é" * 240: 1})).clips() == ("é" * 240,)
    assert FrameStore(write(tmp_path / "none", {})).clips() == ()


def test_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), FrameStoreWriter(tmp_path / "frames") as writer:  # noqa: PT012
        writer.put_clip("a", jpegs(2), pcm(2))
        raise ZeroDivisionError
    assert not (tmp_path / "frames").exists()


def test_environments_are_written_once(tmp_path):
    write(tmp_path / "frames")
    before = sha256(tmp_path / "frames")
    with pytest.raises(FileExistsError):
        FrameStoreWriter(tmp_path / "frames")
    assert sha256(tmp_path / "frames") == before


def test_dropped_clips_are_gone_and_the_bytes_do_not_depend_on_the_map_size(tmp_path):
    for size in (1 << 16, 1 << 30):
        with FrameStoreWriter(tmp_path / str(size), map_size=size) as writer:
            for number in range(20):
                writer.put_clip(f"c{number}", jpegs(30, number), pcm(30))
                if number % 3:
                    writer.drop_clip(f"c{number}")
            with pytest.raises(KeyError):
                writer.drop_clip("c1")
            writer.put_clip("c1", jpegs(2), pcm(2))
    store = FrameStore(tmp_path / str(1 << 16))
    assert set(store.clips()) == {"c1", *(f"c{number}" for number in range(0, 20, 3))}
    assert len(list(store.keys())) == 7 * 32 + 4
    assert store.jpeg("c18", 29) == jpegs(30, 18)[29]
    assert sha256(tmp_path / str(1 << 16)) == sha256(tmp_path / str(1 << 30))


# ---- same input, same bytes

MANY = {f"clip#{number:03d}": 40 for number in range(40)}
WRITE_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tests.storage.test_frame_store import MANY, write
write(Path(sys.argv[1]), MANY)
"""


def test_same_clips_are_same_bytes_for_every_map_size_and_process(tmp_path):
    sizes = [1 << 16, 1 << 20, 5_000_000, 1 << 30, 1 << 40]
    hashes = {sha256(write(tmp_path / str(size), MANY, map_size=size)) for size in sizes}
    for seed in ("1", "2"):
        command = [sys.executable, "-c", WRITE_IN_ANOTHER_PROCESS, str(tmp_path / seed)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2])
        hashes.add(sha256(tmp_path / seed))
    assert len(hashes) == 1
    assert len(list(record_digests(tmp_path / "1"))) == 40 * 42


def test_small_values_inside_tree_pages_grow_the_map_too(tmp_path):
    for size in (1 << 16, 1 << 30):
        with FrameStoreWriter(tmp_path / str(size), map_size=size) as writer:
            for number in range(30):
                writer.put_clip(f"clip{number:02d}" * 20, [b"%d" % index for index in range(1, 400)], pcm(399))
    assert sha256(tmp_path / str(1 << 16)) == sha256(tmp_path / str(1 << 30))
    read_all(FrameStore(tmp_path / str(1 << 16)))


# ---- damage


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("shard") / "frames", {f"c{number}": 60 for number in range(4)})


def damaged(shard: Path, tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "shard-0007"
    path.mkdir(exist_ok=True)
    (path / "data.mdb").unlink(missing_ok=True)
    (path / "data.mdb").write_bytes(data)
    return path


@pytest.mark.parametrize("size", [0, 100, 4096, 8192, 12288, 0.5, 0.9999])
@pytest.mark.parametrize("is_size_known", [True, False])
def test_truncated_shard_is_named_and_never_kills_or_reads_as_empty(shard, tmp_path, size, is_size_known):
    whole = (shard / "data.mdb").read_bytes()
    path = damaged(shard, tmp_path, whole[: size if isinstance(size, int) else int(size * len(whole))])

    def read() -> None:
        with pytest.raises(StoreCorrupt, match="shard-0007"):
            FrameStore(path, len(whole) if is_size_known else None).clips()
        with pytest.raises(StoreCorrupt, match="shard-0007"):
            list(record_digests(path))

    assert processes.run(read) == 0


@pytest.mark.parametrize("data", [b"\xa7" * 50_000, bytes(50_000), b"PK\x03\x04" * 9000, os.urandom(1 << 16)])
def test_garbage_is_named(shard, tmp_path, data):
    path = damaged(shard, tmp_path, data)

    def read() -> None:
        with pytest.raises(StoreCorrupt, match=r"shard-0007.*not an LMDB file"):
            FrameStore(path).clips()

    assert processes.run(read) == 0


def test_missing_file_is_named(tmp_path):
    with pytest.raises(StoreCorrupt, match="shard-0007"):
        FrameStore(tmp_path / "shard-0007").clips()


def test_wrong_size_is_found_although_lmdb_would_read_it(shard, tmp_path):
    whole = (shard / "data.mdb").read_bytes()
    path = damaged(shard, tmp_path, whole + bytes(4096))
    with pytest.raises(StoreCorrupt, match=f"expected {len(whole)}"):
        FrameStore(path, len(whole)).clips()


def tree_pages(data: bytes) -> list[int]:
    """Numbers of pages that are branch or leaf by their header, the current ones among them."""
    heads = [(page, data[4096 * page : 4096 * page + 12]) for page in range(2, len(data) // 4096)]
    return [n for n, head in heads if int.from_bytes(head[:8], "little") == n and head[10] in (1, 2)]


def test_garbled_pages_never_kill_the_reader(shard, tmp_path):
    noise = np.random.default_rng(3)
    whole = (shard / "data.mdb").read_bytes()
    pages = [0, 1, *tree_pages(whole)]
    outcomes = set()

    def read() -> None:
        try:
            read_all(FrameStore(path, len(whole)))
        except StoreCorrupt as error:
            os._exit(3 if "shard-0007" in str(error) else 4)

    for _ in range(150):
        data, size = bytearray(whole), int(noise.choice([1, 8, 64, 4096]))
        start = 4096 * int(noise.choice(pages)) + int(noise.integers(0, 4097 - size))
        data[start : start + size] = noise.bytes(size)
        path = damaged(shard, tmp_path, bytes(data))
        outcomes.add(processes.run(read))
    assert outcomes == {0, 3}


def test_one_flipped_byte_is_found_by_digests_and_by_verify(tmp_path):
    store = ObjectStore(tmp_path)
    key = object_key("cut", 1, {})
    with store.stage("cut", key, {}) as staging:
        write(staging.path / "frames", {"a": 3, "b#1": 1})
        staging.commit()
    path = store.path(key) / "frames" / "data.mdb"
    before = dict(record_digests(path.parent))
    assert before["a-0000002"] == hashlib.sha256(jpegs(3)[2]).hexdigest()
    data = bytearray(path.read_bytes())
    data[data.index(jpegs(3)[2]) + 1500] ^= 1
    path.unlink()
    path.write_bytes(data)
    after = dict(record_digests(path.parent))
    assert [name for name in before if before[name] != after[name]] == ["a-0000002"]
    with pytest.raises(StoreCorrupt, match=r"data\.mdb: sha256"):
        store.verify(key)


def test_full_disk_as_lmdb_reports_it(tmp_path, monkeypatch):
    writer = FrameStoreWriter(tmp_path / "frames")
    for message, error in [("mdb_txn_commit: Input/output error", OutOfSpace), ("mdb_put: something", lmdb.Error)]:
        monkeypatch.setattr(writer, "_reserve", lambda records, text=message: (_ for _ in ()).throw(lmdb.Error(text)))
        with pytest.raises(error):
            writer.put_clip("a", jpegs(1), pcm(1))


# ---- processes and threads


def read_one(store: FrameStore) -> bytes:
    return store.jpeg("M003#angry#level_1#001", 4) + store.audio("RD_Radio1_000#1").tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_store_works_in_other_processes_while_open_here(tmp_path, method):
    store = FrameStore(write(tmp_path / "frames"))
    expected = read_one(store)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_one, [store] * 4) == [expected] * 4
    assert read_one(store) == expected


def test_forked_child_uses_inherited_stores(tmp_path):
    first, second = FrameStore(write(tmp_path / "frames")), FrameStore(tmp_path / "frames")
    expected = read_one(first) + read_one(second)

    def read() -> None:
        assert read_one(second) + read_one(first) == expected
        assert processes.run(lambda: read_one(first)) == 0

    assert [processes.wait(child) for child in [processes.start(read) for _ in range(3)]] == [0, 0, 0]
    assert read_one(first) + read_one(second) == expected


def test_two_stores_over_one_file(tmp_path):
    first, second = FrameStore(write(tmp_path / "frames")), FrameStore(tmp_path / "." / "frames")
    assert read_one(first) == read_one(second)
    first.close()
    assert read_one(first) == read_one(second)
    del first
    assert read_one(second)


def test_a_store_sees_the_file_that_took_the_place_of_another(tmp_path):
    old = FrameStore(write(tmp_path / "frames", {"old": 1}))
    assert old.clips() == ("old",)
    (tmp_path / "frames" / "data.mdb").unlink()
    (tmp_path / "frames").rmdir()
    write(tmp_path / "frames", {"new": 1})
    assert FrameStore(tmp_path / "frames").clips() == ("new",)
    assert old.num_frames("old") == 1


def test_many_threads(tmp_path):
    store = FrameStore(write(tmp_path / "frames"))
    barrier = threading.Barrier(8)

    def read(_: int) -> bytes:
        barrier.wait()
        return read_one(store)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(8)))) == 1


def test_pickle_holds_no_environment(tmp_path):
    store = FrameStore(write(tmp_path / "frames"), (tmp_path / "frames" / "data.mdb").stat().st_size)
    read_one(store)
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.path, copy.expected_bytes) == (store.path, store.expected_bytes)
    assert read_one(copy) == read_one(store)


def test_read_only_files_are_enough(tmp_path):
    path = write(tmp_path / "frames")
    (path / "data.mdb").chmod(0o444)
    path.chmod(0o555)
    try:
        read_all(FrameStore(path))
        assert os.listdir(path) == ["data.mdb"]
    finally:
        path.chmod(0o755)
