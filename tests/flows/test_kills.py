"""Refreshes that are killed, disturbed or doubled: what is published is what an undisturbed run would have published."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.lock import writer_lock
from storage.objects import ObjectStore
from tasks.store.verify import verify_snapshot
from tests.flows.conftest import Base
from tests.flows.lab import Lab, Running

MakeLab = Callable[..., Lab]
NUM_KILLS, SEED = 20, 11


def assert_whole(lab: Lab, snapshot_id: str) -> None:
    """The store holds exactly this snapshot, every byte of it right, and nothing half-done."""
    snapshot = lab.snapshot()
    assert (snapshot.body.number, snapshot.id) == (1, snapshot_id)
    assert verify_snapshot(snapshot).problems == ()
    assert list((lab.store / "staging").glob("*")) == []
    assert sorted(ObjectStore(lab.store).keys()) == sorted({ref.key for ref in snapshot.body.objects()})
    counts = snapshot.body.counts["sources"]
    assert counts["total"] == sum(count for state, count in counts.items() if state != "total") == 6


def is_computing(lab: Lab) -> bool:
    return any((lab.store / "staging").glob("*/object"))


@pytest.mark.timeout(600)
def test_kill_9_at_20_random_instants_then_a_rerun_gives_the_same_id(base: Base, make_lab: MakeLab) -> None:
    """K-03, K-07: two stores, each killed ten times, in turn the whole process group and the driver alone."""
    instants = _instants()
    labs = [make_lab("even"), make_lab("odd")]
    with ThreadPoolExecutor(2) as pool:
        reached = sum(pool.map(_kill_and_finish, labs, (instants[::2], instants[1::2]), [base] * 2))
    assert reached >= NUM_KILLS // 2, "too few runs were still alive when they were to be killed"


def _instants() -> list[float]:
    """One random instant in each twentieth of a run, as a share of it, in random order."""
    chance = random.Random(SEED)
    instants = [(part + chance.random()) / NUM_KILLS for part in range(NUM_KILLS)]
    chance.shuffle(instants)
    return instants


def _kill_and_finish(lab: Lab, instants: list[float], base: Base) -> int:
    """How many runs were alive at their instant. One that was not has done all, and the next begins anew."""
    reached, seconds, snapshot_id = 0, base.seconds, base.answer["id"]
    for number, instant in enumerate(instants):
        run = lab.start("--workers", "1")
        if _outlives(run, instant * seconds):
            reached += 1
            run.signal(signal.SIGKILL) if number % 2 else run.kill_group()
            run.process.wait()
        else:
            seconds = time.monotonic() - run.began
            assert_whole(lab, snapshot_id)
            shutil.rmtree(lab.store)
        assert run.orphans() == []
    answer = lab.done("--workers", "1")
    assert answer["id"] == snapshot_id
    assert_whole(lab, snapshot_id)
    return reached


def _outlives(run: Running, seconds: float) -> bool:
    """Whether the run is alive so many seconds after its begin; returns then, or when it ends."""
    try:
        run.process.wait(max(0.0, seconds - (time.monotonic() - run.began)))
    except subprocess.TimeoutExpired:
        return True
    return False


def test_killed_worker_costs_nothing_but_time(base: Base, make_lab: MakeLab) -> None:
    """K-01: a worker dies in the middle of its task; the run completes with one object per key."""
    lab = make_lab()
    run = lab.start("--workers", "2", env={"TALKSET_TEST_PAUSE": "0.5"})
    run.wait_for(lambda: is_computing(lab))
    victim = next(process for process in run.workers() if process.children() == [])
    victim.kill()
    ended = run.end()
    assert ended.code == 0, ended.err
    assert ended.answer["id"] == base.answer["id"]
    assert_whole(lab, base.answer["id"])
    assert run.orphans() == []


def test_poison_source_costs_only_itself(base: Base, make_lab: MakeLab) -> None:
    """K-02: a source that kills every worker it meets is failed and named; all others are done and published."""
    lab = make_lab(features={"landmarks": {}})
    ended = lab.refresh("--workers", "2", env={"TALKSET_TEST_POISON": "002.mp4"})
    assert ended.code == 3, ended.err
    assert ended.answer["status"] == "partial"
    rows = {row["path"]: row for row in lab.snapshot().source_table.to_pylist()}
    assert {path: row["state"] for path, row in rows.items() if row["state"] != "done"} == {"P01/002.mp4": "failed"}
    assert "KilledWorker" in rows["P01/002.mp4"]["detail"]
    assert list(ended.answer["failed"]) == ["P01/002.mp4"]
    assert verify_snapshot(lab.snapshot()).problems == ()
    mended = lab.done("--retry-failed")
    assert mended["counts"] == base.answer["counts"]
    assert mended["steps_computed"] == 2


def test_second_refresh_is_told_who_works_and_a_killed_one_leaves_no_lock(make_lab: MakeLab) -> None:
    """C-01, C-04: two at once: one works, the other exits with 4 at once; kill -9 frees the lock at once."""
    lab = make_lab()
    run = lab.start("--workers", "1", env={"TALKSET_TEST_PAUSE": "2"})
    run.wait_for(lambda: is_computing(lab))
    second = lab.refresh()
    assert second.code == 4
    assert second.seconds < 5
    assert f"process {run.process.pid} on " in second.err
    assert len(second.err.strip().splitlines()) == 1
    run.kill_group()
    with writer_lock(lab.store):
        pass


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_run_in_order(make_lab: MakeLab, number: signal.Signals, code: int) -> None:
    """K-06: gone within ten seconds, one line, staging swept, lock free, nobody left behind."""
    lab = make_lab()
    run = lab.start("--workers", "2", env={"TALKSET_TEST_PAUSE": "2"})
    run.wait_for(lambda: is_computing(lab))
    began = time.monotonic()
    # Ctrl-C reaches every process of the terminal's group, a supervisor's SIGTERM only the driver.
    os.killpg(run.process.pid, number) if number == signal.SIGINT else run.signal(number)
    ended = run.end()
    assert time.monotonic() - began < 10
    assert ended.code == code
    # The command says one line and nothing else. Dask's workers may print lines of their own while they lose their
    # scheduler or are interrupted with their group: how many depends on how busy the machine is.
    ours = [line for line in ended.err.splitlines() if not re.match(r"\d{4}-\d\d-\d\d .* - distributed\b", line)]
    assert [line for line in ours if line.startswith("talkset")] == [
        "talkset: interrupted; what was finished is kept: run the same command again"
    ]
    assert len(ours) == 1 or any("distributed" in line for line in ended.err.splitlines())
    assert run.orphans() == []
    with writer_lock(lab.store):
        pass
    assert not (lab.store / "snapshots").exists()
    assert list((lab.store / "staging").glob("*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_own_server_dies_with_its_run(base: Base, make_lab: MakeLab, number: signal.Signals) -> None:
    """A run that starts its own Prefect server takes it along, even while the server is still coming up."""
    lab = make_lab()
    lab.api_url = None
    run = lab.start("--workers", "1")
    run.wait_for(lambda: _server(run))
    run.signal(number)
    assert run.end(10).code == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert run.orphans() == []


def _server(run: Running):
    return next((process for process in run.family() if "uvicorn" in " ".join(process.cmdline())), None)


def test_kill_between_publish_and_report_is_mended(base: Base, make_lab: MakeLab) -> None:
    """The snapshot is there, its report and the fingerprint are not: the rerun writes them, same id."""
    lab = make_lab(base=base)
    shutil.rmtree(lab.store / "reports")
    (lab.store / "state" / "last.json").unlink()
    answer = lab.done()
    assert (answer["id"], answer["steps_computed"], answer["is_new"]) == (base.answer["id"], 0, False)
    assert (lab.store / "reports" / "000001" / "index.html").is_file()
