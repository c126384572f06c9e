"""Two refreshes and one store; a reader and everything that may happen beside it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from storage.keys import sha256_hex
from storage.snapshot import Snapshot
from tasks.store.gc import collect
from tasks.store.verify import verify_snapshot
from tests.flows.conftest import Base
from tests.flows.lab import FEATURES, Lab

pytestmark = pytest.mark.timeout(600)
MakeLab = Callable[..., Lab]
FEWER = {name: params for name, params in FEATURES.items() if name != "sync"}
OTHER_SPLIT = {"split": {"test": ["P01"], "val_share": 0.0}}


def test_two_refreshes_with_different_settings_stand_in_a_line(base: Base, make_lab: MakeLab) -> None:
    """C-02: started at once, one waits for the other; each snapshot is what its run alone gives."""
    # Everything is in this store already, so that it is only published anew.
    alone = make_lab("alone", base, features=FEWER, block=OTHER_SPLIT)
    assert alone.done()["number"] == 2
    one = make_lab("one")
    other = Lab(one.folder / "settings", one.root, features=FEWER, block=OTHER_SPLIT)
    runs = {
        "base": one.start("--workers", "1", "--wait", "240"),
        "other": one.start("--workers", "1", "--wait", "240", "--catalog", str(other.catalog)),
    }
    ended = {name: run.end() for name, run in runs.items()}
    assert [run.code for run in ended.values()] == [0, 0], [run.err for run in ended.values()]
    answers = {name: run.answer for name, run in ended.items()}
    assert sorted(answer["number"] for answer in answers.values()) == [1, 2]
    first, second = one.snapshot(1), one.snapshot(2)
    assert (first.body.parent, second.body.parent) == (None, first.id)
    solo = {"base": base.lab.snapshot(), "other": alone.snapshot(2)}
    for name, answer in answers.items():
        found = one.snapshot(answer["number"])
        assert found.id == answer["id"]
        assert found.body.contents() == solo[name].body.contents()
        assert verify_snapshot(found).problems == ()


def test_reader_of_a_pinned_snapshot_sees_no_refresh_and_no_collection(base: Base, make_lab: MakeLab) -> None:
    """C-03: snapshots are published and removed around it; what it reads is there and is the same every time."""
    lab = make_lab(base=base)
    with _reader(lab, base.answer["id"]) as seen:
        lab.block |= OTHER_SPLIT
        lab.write_catalog()
        assert lab.done()["number"] == 2
        del lab.block["split"]
        lab.features["mel"] = {"pad_mode": "constant"}
        lab.write_catalog()
        assert lab.done("--workers", "1")["number"] == 3
        assert collect(lab.store, keep=1, grace_hours=0, is_dry=True).snapshots == (1, 2)
        (lab.store / "pins").mkdir(exist_ok=True)
        (lab.store / "pins" / "training").write_text(base.answer["id"])
        before = len(seen)
        gone = lab.talkset("gc", "--keep", "1", "--grace-hours", "0")
        assert gone.code == 0, gone.err
        assert (gone.answer["snapshots"], gone.answer["objects"]) == ([2], 1)
        _wait_until(lambda: len(seen) > before + 2)
    assert len(set(seen)) == 1, "what it read has changed"
    assert verify_snapshot(lab.snapshot(1)).problems == ()
    assert verify_snapshot(lab.snapshot(3)).problems == ()


@contextmanager
def _reader(lab: Lab, snapshot_id: str) -> Iterator[list[str]]:
    """Reads the snapshot again and again beside the block; a digest for each time, an error of it at the end."""
    seen: list[str] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.wait(0.2):
                seen.append(_digest(Snapshot.open(lab.store, snapshot_id)))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
    assert errors == []


def _digest(snapshot: Snapshot) -> str:
    """Of every frame, sound and feature."""
    parts: list[bytes] = []
    for clip in snapshot.clips():
        parts += [snapshot.frames(clip.shard).jpeg(clip.clip, index) for index in range(clip.num_frames)]
        parts.append(snapshot.audio(clip).tobytes())
        for extractor in sorted(clip.shard.features):
            row = snapshot.feature(clip, extractor)
            parts += [np.asarray(row[column]).tobytes() for column in sorted(row)]
    return sha256_hex(b"".join(parts))


def _wait_until(what: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(600):
        if what():
            return
        done.wait(0.1)
    raise AssertionError("the reader has stopped")
