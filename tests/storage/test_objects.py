import errno
import os
import random
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage import files
from storage.errors import OutOfSpace, StoreCorrupt
from storage.frame_store import FrameStoreWriter
from storage.keys import object_key
from storage.objects import MANIFEST_NAME, ObjectRef, ObjectStore, Staging
from storage.tables import Column, write_table
from tests.storage import processes

KEY = object_key("mel", 1, {"source": "abc"})


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(tmp_path / "store")


def fill(staging: Staging, text: bytes = b"payload") -> None:
    files.write_bytes_durable(staging.path / "a.bin", text)
    files.make_dir(staging.path / "frames")
    files.write_bytes_durable(staging.path / "frames" / "data.mdb", b"x" * 1000)


def commit(store: ObjectStore, key: str = KEY, text: bytes = b"payload") -> ObjectRef:
    with store.stage("mel", key, {"source": "abc"}) as staging:
        fill(staging, text)
        return staging.commit(timing={"work_s": 1.5}, tools={"numpy": "2"})


def assert_no_staging(store: ObjectStore) -> None:
    assert list((store.root / "staging").glob("*")) == []


def test_commit_and_read_back(store):
    assert not store.exists(KEY)
    ref = commit(store)
    assert store.exists(KEY)
    assert list(store.keys()) == [KEY]
    assert store.open(KEY) == ref == ObjectRef("mel", KEY, ref.digest, 1007)
    assert store.path(KEY) == store.root / "objects" / KEY[:2] / KEY
    assert (store.path(KEY) / "a.bin").read_bytes() == b"payload"
    manifest = store.manifest(KEY)
    assert set(manifest.files) == {"a.bin", "frames/data.mdb"}
    assert (manifest.key_inputs, manifest.timing, manifest.tools) == (
        {"source": "abc"},
        {"work_s": 1.5},
        {"numpy": "2"},
    )
    store.verify(KEY)
    assert_no_staging(store)


def test_digest_is_of_the_payload_only(store, tmp_path):
    ref = commit(store)
    with ObjectStore(tmp_path / "other").stage("mel", KEY, {}) as staging:
        fill(staging)
        assert staging.commit(timing={"work_s": 99.0}, tools={"host": "other"}).digest == ref.digest
    with ObjectStore(tmp_path / "third").stage("mel", KEY, {}) as staging:
        fill(staging, b"other payload")
        assert staging.commit().digest != ref.digest


def test_uncommitted_block_leaves_nothing(store):
    with store.stage("mel", KEY, {}) as staging:
        fill(staging)
    assert not store.exists(KEY)
    with pytest.raises(FileExistsError), store.stage("mel", KEY, {}) as staging:  # noqa: PT012
        fill(staging)
        fill(staging)
    assert not store.exists(KEY)
    assert_no_staging(store)


def test_second_commit_of_a_key_returns_the_first(store):
    ref = commit(store)
    assert commit(store, text=b"a different answer") == ref
    assert (store.path(KEY) / "a.bin").read_bytes() == b"payload"
    assert_no_staging(store)


def test_second_commit_onto_a_damaged_object_says_so(store):
    commit(store)
    truncate(store.path(KEY) / "a.bin", 3)
    with pytest.raises(StoreCorrupt, match=r"a\.bin"):
        commit(store)


def test_many_processes_commit_one_key(store):
    children = [processes.start(lambda n=n: commit(store, text=b"%d" % n)) for n in range(6)]
    assert [processes.wait(child) for child in children] == [0] * 6
    store.verify(KEY)
    assert list(store.keys()) == [KEY]
    assert_no_staging(store)


@pytest.mark.parametrize("name", [MANIFEST_NAME, "link", None])
def test_refuses_payload_it_cannot_vouch_for(store, name):
    with store.stage("mel", KEY, {}) as staging:
        if name == "link":
            (staging.path / name).symlink_to("/etc/passwd")
        elif name:
            (staging.path / name).write_text("{}")
        with pytest.raises(ValueError):
            staging.commit()
    assert not store.exists(KEY)


@pytest.mark.parametrize("key", ["", "abc", "../" * 20, "A" * 64, "g" * 64])
def test_refuses_what_is_not_a_key(store, key):
    for use in (
        store.path,
        store.exists,
        store.open,
        store.delete,
        lambda key: store.stage("mel", key, {}).__enter__(),
    ):
        with pytest.raises(ValueError, match="64 hex"):
            use(key)


def test_missing_object(store):
    with pytest.raises(StoreCorrupt, match="talkset refresh"):
        store.open(KEY)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def truncate(path: Path, size: int) -> None:
    path.chmod(0o644)
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: flip(path / "frames" / "data.mdb"), "data.mdb"),
        (lambda path: flip(path / "a.bin"), "a.bin"),
        (lambda path: truncate(path / "frames" / "data.mdb", 0), "data.mdb"),
        (lambda path: (path / "a.bin").unlink(), "a.bin"),
        (lambda path: (path / "more").write_text(""), "more"),
        (lambda path: truncate(path / MANIFEST_NAME, 50), MANIFEST_NAME),
        (lambda path: (path / MANIFEST_NAME).unlink(), MANIFEST_NAME),
    ],
)
def test_verify_names_the_damaged_file(store, damage, named):
    commit(store)
    damage(store.path(KEY))
    with pytest.raises(StoreCorrupt, match=named):
        store.verify(KEY)


def test_manifest_of_another_object_is_found(store):
    other = object_key("mel", 2, {})
    commit(store)
    store.path(KEY).rename(store.path(KEY).with_name(other))
    store.path(other).parent.mkdir(exist_ok=True)
    store.path(KEY).with_name(other).rename(store.path(other))
    with pytest.raises(StoreCorrupt, match="key or digest"):
        store.verify(other)


def test_unknown_manifest_fields_are_refused(store):
    commit(store)
    path = store.path(KEY) / MANIFEST_NAME
    text = path.read_text().replace("{", '{"surprise": 1,', 1)
    path.unlink()
    path.write_text(text)
    with pytest.raises(StoreCorrupt, match="surprise"):
        store.manifest(KEY)


def test_delete(store):
    commit(store)
    store.delete(KEY)
    store.delete(KEY)
    assert not store.exists(KEY)
    assert list(store.keys()) == []
    assert_no_staging(store)
    commit(store)
    store.verify(KEY)


def test_sweep_takes_orphans_and_spares_the_living(store):
    reading, writing = os.pipe()

    def stage_and_wait() -> None:
        with store.stage("mel", KEY, {}) as staging:
            fill(staging)
            os.write(writing, b"1")
            time.sleep(60)

    dead, living = processes.start(stage_and_wait), processes.start(stage_and_wait)
    assert len(os.read(reading, 1) + os.read(reading, 1)) == 2
    processes.kill(dead)
    assert store.sweep_staging() == 1
    (left,) = (path for path in (store.root / "staging").iterdir() if path.is_dir())
    assert f"-{living}-" in left.name
    assert (left / "object" / "a.bin").exists()
    processes.kill(living)
    assert store.sweep_staging() == 1
    assert_no_staging(store)
    assert store.sweep_staging() == 0


def test_sweeps_beside_commits_harm_nobody(store):
    def commit_some() -> None:
        for number in range(30):
            commit(store, object_key("mel", number, {"pid": os.getpid()}))

    def sweep_always() -> None:
        while True:
            store.sweep_staging()

    sweeper = processes.start(sweep_always)
    children = [processes.start(commit_some) for _ in range(2)]
    codes = [processes.wait(child) for child in children]
    processes.kill(sweeper)
    assert codes == [0, 0]
    assert len(list(store.keys())) == 60


def test_stalled_writer_wakes_up_to_find_its_work_done(store):
    reading, writing = os.pipe()

    def stall() -> None:
        with store.stage("mel", KEY, {}) as staging:
            fill(staging, b"late")
            os.kill(os.getpid(), signal.SIGSTOP)
            os.write(writing, staging.commit().digest.encode())

    late = processes.start(stall)
    os.waitpid(late, os.WUNTRACED)
    assert store.sweep_staging() == 0
    ref = commit(store)
    os.kill(late, signal.SIGCONT)
    assert processes.wait(late) == 0
    assert os.read(reading, 64).decode() == ref.digest
    assert (store.path(KEY) / "a.bin").read_bytes() == b"payload"
    assert_no_staging(store)


# ---- faults at the n-th system call


class Faults:
    """Replaces the file calls of `os`; the n-th one on a path is hit."""

    names = ("open", "write", "fsync", "mkdir", "rename", "chmod")

    def __init__(self, patch: pytest.MonkeyPatch, number: int, hit: Callable[[], None]) -> None:
        self.left, self.hit, self.real = number, hit, {name: getattr(os, name) for name in self.names}
        for name in self.names:
            patch.setattr(os, name, lambda *args, _name=name, **options: self.call(_name, args, options))

    def call(self, name: str, args: tuple, options: dict):
        self.left -= 1
        if self.left == 0:
            self.hit()
        return self.real[name](*args, **options)


def failing(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def attempt(store: ObjectStore, number: int, hit: Callable[[], None], reached: list[bool]) -> ObjectRef | None:
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, number, hit)
        try:
            return commit(store)
        except (OSError, OutOfSpace):
            return None
        finally:
            reached.append(faults.left <= 0)


def check_after_fault(store: ObjectStore, expected: ObjectRef, acknowledged: bool) -> None:
    """Either no object or a whole one is there; a rerun gives what an undisturbed run gives."""
    visible = list(store.keys())
    assert visible == ([KEY] if visible or acknowledged else [])
    for key in visible:
        store.verify(key)
    store.sweep_staging()
    assert_no_staging(store)
    assert commit(store) == expected
    store.verify(KEY)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_every_single_call_may_fail(tmp_path, number):
    expected = commit(ObjectStore(tmp_path / "undisturbed"))
    for nth in range(1, 1000):
        store, reached = ObjectStore(tmp_path / str(nth)), []
        ref = attempt(store, nth, failing(number), reached)
        check_after_fault(store, expected, ref is not None)
        if not reached[0]:
            break
    assert 20 < nth < 999


def test_every_single_call_may_be_the_last(tmp_path):
    expected = commit(ObjectStore(tmp_path / "undisturbed"))
    for nth in range(1, 1000):
        store = ObjectStore(tmp_path / str(nth))
        code = processes.run(lambda: attempt(store, nth, lambda: os.kill(os.getpid(), signal.SIGKILL), []))
        check_after_fault(store, expected, code == 0)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert 20 < nth < 999


def test_kill_after_the_rename_is_found_done_by_the_retry(store, monkeypatch):
    def commit_and_die() -> None:
        real_move = files.move_new
        monkeypatch.setattr(files, "move_new", lambda *paths: (real_move(*paths), os.kill(os.getpid(), signal.SIGKILL)))
        commit(store)

    assert processes.run(commit_and_die) == -signal.SIGKILL
    assert store.exists(KEY)
    store.verify(KEY)
    assert commit(store, text=b"never") == store.open(KEY)
    assert store.sweep_staging() == 1


def test_sixty_kills_lose_no_acknowledged_commit(store):
    randomness = random.Random(7)
    acknowledged: set[bytes] = set()
    reading, writing = os.pipe()

    def commit_forever() -> None:
        for number in range(10_000):
            ref = commit(store, object_key("mel", number, {"pid": os.getpid()}))
            os.write(writing, ref.key.encode())

    def read_acknowledged(timeout_s: float) -> None:
        while select.select([reading], [], [], timeout_s)[0]:
            acknowledged.add(os.read(reading, 64))
            timeout_s = 0

    for number in range(60):
        child = processes.start(commit_forever)
        # every other child has acknowledged a commit before the clock starts, however busy the machine is
        if number % 2:
            read_acknowledged(60)
        time.sleep(randomness.uniform(0.005, 0.06))
        processes.kill(child)
        read_acknowledged(0)
    os.close(writing)
    os.close(reading)
    visible = set(store.keys())
    assert len(acknowledged) >= 30
    assert {key.decode() for key in acknowledged} <= visible
    for key in visible:
        store.verify(key)
    store.sweep_staging()
    assert_no_staging(store)


# ---- a full disk seen from C libraries


def write_frames(path: Path) -> None:
    noise = np.random.default_rng(0)
    with FrameStoreWriter(path / "frames") as writer:
        for number in range(8):
            writer.put_clip(f"c{number}", [noise.bytes(20_000) for _ in range(10)], np.zeros(6400, np.int16))


def write_features(path: Path) -> None:
    values = np.random.default_rng(0).random((100_000,))
    write_table(path / "features.parquet", ({"x": values} for _ in range(3)), [Column("x", "float64", ("N",))])


@pytest.mark.parametrize("write", [write_frames, write_features])
def test_file_size_limit_inside_a_library(store, tmp_path, write):
    def produce(into: ObjectStore) -> ObjectRef:
        with into.stage("cut", KEY, {}) as staging:
            write(staging.path)
            return staging.commit()

    def fail_then_succeed() -> None:
        expected = produce(ObjectStore(tmp_path / "undisturbed"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, resource.RLIM_INFINITY))
        with pytest.raises(OutOfSpace):
            produce(store)
        assert list(store.keys()) == []
        assert_no_staging(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert produce(store) == expected
        store.verify(KEY)

    assert processes.run(fail_then_succeed) == 0
