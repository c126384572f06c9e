"""The list of takedowns: what is on it stays on it, is found by content, and a damaged list stops everything."""

import os
import tempfile
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from pydantic import ValidationError

from storage import takedowns
from storage.errors import LockedError, OutOfSpace, PreflightError, StoreCorrupt
from storage.keys import sha256_hex
from storage.takedowns import NO_TAKEDOWNS, Takedown, add_takedown, load_takedowns, remove_takedown
from tests.storage import processes
from tests.synthetic_store import build_store

A, B = sha256_hex(b"a"), sha256_hex(b"b")


def entry(sha256: str = A, *ids: str, **changed: str) -> Takedown:
    given = {"path": "a/1.mp4", "reason": "consent withdrawn", "taken_at": "2026-01-02T03:04:05+00:00"} | changed
    return Takedown(sha256=sha256, source_ids=ids, **given)


def id_of(digit: str) -> str:
    return digit * 20


def test_a_store_without_a_list_has_no_takedowns(tmp_path: Path) -> None:
    assert load_takedowns(tmp_path) is NO_TAKEDOWNS
    assert list(tmp_path.iterdir()) == []


def test_what_is_added_is_read_back_whole_and_in_order(tmp_path: Path) -> None:
    first, second = entry(A, id_of("1"), who="Zoë"), entry(B, path="b.mp4", reason="“no”\\x00")
    assert add_takedown(tmp_path / "new", first) == (first, True)
    assert add_takedown(tmp_path / "new", second) == (second, True)
    assert load_takedowns(tmp_path / "new").entries == (first, second)


def test_it_is_found_by_hash_and_by_every_id_and_by_nothing_else(tmp_path: Path) -> None:
    found, by_id = entry(A, id_of("1"), id_of("2")), entry("", id_of("3"), path="gone")
    add_takedown(tmp_path, found)
    add_takedown(tmp_path, by_id)
    listed = load_takedowns(tmp_path)
    assert listed.of(A, id_of("9")) == listed.of(B, id_of("2")) == listed.of("", id_of("1")) == found
    assert listed.of("", id_of("3")) == by_id
    assert listed.of(B, id_of("9")) is listed.of("", "") is None
    assert listed.source_ids == {id_of("1"), id_of("2"), id_of("3")}


def test_a_source_that_is_listed_keeps_its_reason_and_gains_ids(tmp_path: Path) -> None:
    add_takedown(tmp_path, entry(A, id_of("1")))
    add_takedown(tmp_path, entry(B))
    again, is_new = add_takedown(tmp_path, entry(A, id_of("2"), path="other", reason="other", taken_at="later"))
    assert (again, is_new) == (entry(A, id_of("1"), id_of("2")), False)
    assert load_takedowns(tmp_path).entries == (again, entry(B))


def test_entries_that_turn_out_to_be_one_source_become_one(tmp_path: Path) -> None:
    add_takedown(tmp_path, entry("", id_of("1"), path="known by id only"))
    add_takedown(tmp_path, entry(B, path="another"))
    add_takedown(tmp_path, entry(A, id_of("2")))
    merged, is_new = add_takedown(tmp_path, entry(A, id_of("1")))
    assert (merged.sha256, merged.source_ids, merged.path) == (A, (id_of("1"), id_of("2")), "known by id only")
    assert not is_new
    assert load_takedowns(tmp_path).entries == (merged, entry(B, path="another"))


def test_removing_takes_only_the_one_that_is_meant(tmp_path: Path) -> None:
    for one in (entry(A, id_of("1")), entry(B, id_of("2"))):
        add_takedown(tmp_path, one)
    remove_takedown(tmp_path, entry(A))
    remove_takedown(tmp_path, entry(sha256_hex(b"never listed")))
    assert load_takedowns(tmp_path).entries == (entry(B, id_of("2")),)


def test_entries_without_a_known_hash_are_not_alike() -> None:
    assert not entry("", id_of("1")).is_same_source(entry("", id_of("2")))


@pytest.mark.parametrize("wrong", [{"sha256": "A" * 64}, {"sha256": "ab"}, {"source_ids": ["xyz"]}, {"since": 3}])
def test_what_is_no_takedown_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Takedown.model_validate(entry().model_dump() | wrong)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b'{"schema_version": 2, "takedowns": []}', b'{"schema_version": 1, "takedowns": [{}]}',
        b'{"schema_version": 1, "takedowns": [', b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_damaged_list_stops_everything_instead_of_bringing_sources_back(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "takedowns.json").write_bytes(content)
    for act in (
        lambda: load_takedowns(tmp_path),
        lambda: add_takedown(tmp_path, entry()),
        lambda: remove_takedown(tmp_path, entry()),
    ):
        with pytest.raises(StoreCorrupt, match=r"takedowns\.json"):
            act()
    assert (tmp_path / "takedowns.json").read_bytes() == content


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    hashes = [sha256_hex(str(number).encode()) for number in range(12)]

    def write(part: int) -> None:
        for digest in hashes[part::4]:
            add_takedown(tmp_path, entry(digest, path=digest))

    children = [processes.start(lambda part=part: write(part)) for part in range(4)]
    assert [processes.wait(child) for child in children] == [0] * 4
    assert {one.sha256 for one in load_takedowns(tmp_path).entries} == set(hashes)


def test_a_list_that_somebody_else_is_writing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FileLock(tmp_path / "takedowns.lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    assert add_takedown(tmp_path, entry())[1]
    monkeypatch.setattr(takedowns, "_LOCK_WAIT_S", 0.1)
    with lock, pytest.raises(LockedError, match=r"takedowns\.json"):
        add_takedown(tmp_path, entry(B))


def test_a_full_disk_leaves_the_list_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_takedown(tmp_path, entry())

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutOfSpace):
        add_takedown(tmp_path, entry(B))
    monkeypatch.undo()
    assert load_takedowns(tmp_path).entries == (entry(),)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights")
def test_a_store_that_may_not_be_written_says_so() -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Path(name)
        store.chmod(0o755)

        def refused() -> None:
            os.setgid(65534)
            os.setuid(65534)
            with pytest.raises(PreflightError, match="not recorded"):
                add_takedown(store, entry())

        assert processes.run(refused) == 0
        assert list(store.iterdir()) == []


def test_held_in_tells_what_a_snapshot_has_in_its_shards(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, with_media=False, clips_per_subject=1)
    row = snapshot.source_table.to_pylist()[0]
    add_takedown(tmp_path, entry(row["sha256"], row["source_id"]))
    add_takedown(tmp_path, entry(B, id_of("1")))
    assert [one.sha256 for one in load_takedowns(tmp_path).held_in(snapshot)] == [row["sha256"]]
