"""Whole refreshes on a real cluster with a real server: what is done again when something changes, and what is not."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.objects import ObjectStore
from tasks.store.verify import verify_snapshot
from tests.flows.conftest import Base
from tests.flows.lab import FEATURES, NUM_STEPS, Lab

MakeLab = Callable[..., Lab]


def objects_by_step(lab: Lab) -> Counter[str]:
    store = ObjectStore(lab.store)
    return Counter(store.manifest(key).step for key in store.keys())


def states(lab: Lab) -> dict[str, str]:
    return {row["path"]: row["state"] for row in lab.snapshot().source_table.to_pylist()}


def test_first_run_computes_everything_once_and_closes_the_accounts(base: Base) -> None:
    answer = base.answer
    assert (answer["status"], answer["number"], answer["is_new"]) == ("done", 1, True)
    assert answer["steps_computed"] == 3 * NUM_STEPS
    assert objects_by_step(base.lab) == {"cut": 3, "publish": 1, **dict.fromkeys(FEATURES, 3)}
    assert answer["counts"]["sources"] == {"total": 6, "done": 6, "rejected": 0, "failed": 0, "duplicate_of": 0}
    assert answer["counts"]["clips"] == {"expected": 6, "kept": 6, "dropped": 0}
    assert answer["splits"] == {"test": 2, "train": 4}
    assert verify_snapshot(base.lab.snapshot()).problems == ()
    assert (base.lab.store / "reports" / "000001" / "index.html").is_file()


def test_rerun_is_answered_without_scheduler_and_without_media(base: Base, tmp_path: Path) -> None:
    """I-01: no server that wants to see the run, nothing changed: known in a moment, from small files alone."""
    quiet = Lab(tmp_path, base.lab.root, api_url=None)
    shutil.copytree(base.lab.store, quiet.store)
    before = sorted(path.relative_to(quiet.store) for path in quiet.store.rglob("*"))
    ended = quiet.refresh(env={"TALKSET_TEST_MODULES": str(tmp_path / "modules")})
    assert ended.code == 0, ended.err
    wanted = {"status": "unchanged", "id": base.answer["id"], "steps_computed": 0, "is_new": False}
    assert {name: ended.answer[name] for name in wanted} == wanted
    modules = set((tmp_path / "modules").read_text().split())
    assert not modules & {"prefect", "dask", "distributed", "numba", "torch", "dlib", "matplotlib"}
    assert sorted(path.relative_to(quiet.store) for path in quiet.store.rglob("*")) == before
    assert ended.seconds < base.seconds / 3


def test_rerun_through_the_server_computes_nothing(base: Base, make_lab: MakeLab) -> None:
    lab = make_lab(base=base)
    answer = lab.done()
    assert (answer["status"], answer["id"], answer["steps_computed"]) == ("unchanged", base.answer["id"], 0)
    assert objects_by_step(lab) == objects_by_step(base.lab)


def test_worker_count_does_not_show(base: Base, make_lab: MakeLab) -> None:
    """I-08: one worker, another folder, another time: the same snapshot id."""
    assert make_lab().done("--workers", "1")["id"] == base.answer["id"]


def test_a_life_of_a_dataset(base: Base, make_lab: MakeLab) -> None:
    """I-02 to I-05 and I-07 on one store, one after the other."""
    lab = make_lab(base=base)
    first = lab.snapshot()
    _rename_and_copy(lab)
    _rewrite_unseen(lab)
    _change_a_parameter(lab)
    _delete_and_tighten(lab)
    assert lab.snapshot(1).id == first.id
    assert [problem for number in range(1, 6) for problem in verify_snapshot(lab.snapshot(number)).problems] == []


def _rename_and_copy(lab: Lab) -> None:
    """A source and its subject get other names, another lies there under two more: nothing is computed."""
    (lab.root / "P00").rename(lab.root / "Q00")
    (lab.root / "Q00" / "000.mp4").rename(lab.root / "Q00" / "take.mp4")
    shutil.copy(lab.root / "P01" / "002.mp4", lab.root / "P01" / "twin.mp4")
    shutil.copy(lab.root / "P01" / "002.mp4", lab.root / "P02" / "twin.mp4")
    answer = lab.done()
    assert (answer["number"], answer["steps_computed"]) == (2, 0)
    old, new = lab.snapshot(1), lab.snapshot(2)
    assert [shard.cut for shard in new.body.shards] == [shard.cut for shard in old.body.shards]
    assert {shard.shard_id: shard.features for shard in new.body.shards} == {
        shard.shard_id: shard.features for shard in old.body.shards
    }
    assert new.clip("Q00#take").clip == old.clip("P00#000").clip
    assert answer["counts"]["sources"]["duplicate_of"] == 2
    assert answer["counts"]["clips"] == {"expected": 6, "kept": 6, "dropped": 0}
    assert Counter(row["source_id"] for row in new.rows(kept=False)).most_common(1)[0][1] == 1


def _rewrite_unseen(lab: Lab) -> None:
    """Other content, equal name, size and mtime: only this source is done again."""
    path = lab.root / "P02" / "004.mp4"
    before, data = path.stat(), path.read_bytes()
    at = data.rindex(b"Lavc") if b"Lavc" in data else len(data) - 40
    path.write_bytes(data[:at] + bytes(byte ^ 1 for byte in data[at : at + 1]) + data[at + 1 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    answer = lab.done()
    assert (answer["number"], answer["steps_computed"]) == (3, NUM_STEPS)
    old, new = lab.snapshot(2), lab.snapshot(3)
    assert new.clip("P02#004").clip != old.clip("P02#004").clip
    same = ["Q00#take", "Q00#001", "P01#002", "P01#003", "P02#005"]
    assert [new.clip(name).clip for name in same] == [old.clip(name).clip for name in same]


def _change_a_parameter(lab: Lab) -> None:
    """Only the tables of that extractor are new; a second change of mind costs nothing."""
    before = objects_by_step(lab)
    lab.features["mel"] = {"pad_mode": "constant"}
    lab.write_catalog()
    answer = lab.done()
    shards = len(lab.snapshot().body.shards)
    assert (answer["number"], answer["steps_computed"]) == (4, shards)
    fresh = objects_by_step(lab) - before
    assert {step: count for step, count in fresh.items() if step != "publish"} == {"mel": shards}


def _delete_and_tighten(lab: Lab) -> None:
    """A source is deleted, a threshold is set: published without computing, the scores are as they were."""
    gone = lab.root / "P02" / "005.mp4"
    gone.unlink()
    scores = {row["name"]: row["sync_confidence"] for row in lab.snapshot().rows(kept=False)}
    limit = sorted(scores.values())[2]
    lab.block["thresholds"] = {"sync_confidence": {"min": limit}}
    lab.write_catalog()
    answer = lab.done()
    assert (answer["number"], answer["steps_computed"]) == (5, 0)
    new = lab.snapshot()
    assert "P02/005.mp4" not in states(lab)
    assert "P02/005.mp4" in {row["path"] for row in lab.snapshot(4).source_table.to_pylist()}
    assert {row["name"]: row["sync_confidence"] for row in new.rows(kept=False)}.items() <= scores.items()
    assert {row["reason"] for row in new.rows(kept=False) if row["sync_confidence"] < limit} == {"BELOW_THRESHOLD"}


def test_odd_names_are_processed_or_refused_by_name(base: Base, make_lab: MakeLab) -> None:
    """N-01, N-02: names no shell or JSON likes are done; links that leave, pipes and devices are named, none blocks."""
    lab = make_lab(base=base, pattern="{subject}/{take:.+}.mp4")
    outside = lab.folder / "outside.mp4"
    odd = [b"caf\xe9.mp4", b"two\nlines.mp4", b"#1%?:'\"; $(x).mp4", "😀é.mp4".encode(), b"-i.mp4", b"e\xcc\x81.mp4"]
    folder = os.fsencode(lab.root / "P01")
    sources = sorted(path for path in lab.root.rglob("*.mp4"))
    for name, source in zip(odd, sources, strict=True):
        source.rename(os.fsdecode(folder + b"/" + name))
    shutil.copy(os.fsdecode(folder + b"/-i.mp4"), outside)
    (lab.root / "P01" / "leaves.mp4").symlink_to(outside)
    (lab.root / "P01" / "circle.mp4").symlink_to("circle.mp4")
    os.mkfifo(lab.root / "P01" / "pipe.mp4")
    if os.geteuid() == 0:
        os.mknod(lab.root / "P01" / "zero.mp4", 0o20666, os.makedev(1, 5))
    answer = lab.done()
    assert answer["counts"]["sources"]["done"] == 6
    assert answer["steps_computed"] == 0
    assert set(answer["counts"]["rejected"]) == {"UNSAFE_PATH"}
    rows = lab.snapshot().source_table.to_pylist()
    assert {bytes.fromhex(row["path_hex"]) for row in rows if row["state"] == "done"} == {
        b"P01/" + name for name in odd
    }
    refused = {row["path"] for row in rows if row["reason"] == "UNSAFE_PATH"}
    assert refused >= {"P01/leaves.mp4", "P01/circle.mp4", "P01/pipe.mp4"}
    assert all(char.isprintable() for row in rows for char in row["path"])


def test_odd_names_reach_the_decoder(make_lab: MakeLab) -> None:
    """N-01 with work to do: the names travel through the scheduler to FFmpeg and back."""
    lab = make_lab(pattern="{subject}/{take:.+}.mp4", features={"landmarks": {}})
    keep = sorted(lab.root.rglob("*.mp4"))[:3]
    for path in set(lab.root.rglob("*.mp4")) - set(keep):
        path.unlink()
    folder = os.fsencode(lab.root / "P00")
    for name, path in zip((b"caf\xe9\nx.mp4", b"a:b#%s.mp4", "😀.mp4".encode()), keep, strict=True):
        path.rename(os.fsdecode(folder + b"/" + name))
    answer = lab.done("--workers", "1")
    assert answer["counts"]["sources"]["done"] == 3
    assert verify_snapshot(lab.snapshot()).problems == ()


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv to be refused")
def test_unreadable_source_fails_alone_and_is_retried(base: Base, make_lab: MakeLab) -> None:
    """D-03: permission denied is ours, not the input's: partial, exit code 3; --retry-failed mends it."""
    plain = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    lab = make_lab(base=base)
    path = lab.root / "P01" / "003.mp4"
    path.chmod(0)
    ended = lab.refresh(prefix=plain)
    assert ended.code == 3, ended.err
    assert ended.answer["status"] == "partial"
    assert ended.answer["counts"]["sources"] == {"total": 6, "done": 5, "rejected": 0, "failed": 1, "duplicate_of": 0}
    row = next(row for row in lab.snapshot().source_table.to_pylist() if row["state"] == "failed")
    assert row["path"] == "P01/003.mp4"
    assert "PermissionError" in row["detail"]
    assert ended.answer["failed"] == {"P01/003.mp4": row["detail"]}
    path.chmod(0o644)
    answer = lab.done("--retry-failed")
    assert answer["counts"]["sources"]["done"] == 6
    assert {ref.key for ref in lab.snapshot().body.objects()} == {ref.key for ref in base.lab.snapshot().body.objects()}
