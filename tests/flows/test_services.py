"""Runs whose scheduler, server or workers are lost, stopped or short of memory; and runs that have none of them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from storage.objects import ObjectStore
from tasks.store.verify import verify_snapshot
from tests.flows.conftest import Base
from tests.flows.lab import FEATURES, NUM_STEPS, Cluster, Ended, Lab
from tests.flows.test_kills import assert_whole, is_computing

pytestmark = pytest.mark.timeout(600)
MakeLab = Callable[..., Lab]
CUTTER = ("--resources", "CUTTER=1")
# Prefect waits 2, 4, 8 ... seconds before it tries again.
FEW_RETRIES = {"PREFECT_CLIENT_MAX_RETRIES": "1"}


def _noted(lab: Lab) -> dict[str, str]:
    return {"TALKSET_TEST_PLACES": str(lab.folder / "places")}


def _places(lab: Lab) -> Counter[tuple[str, str]]:
    """("cut began", process) and so on -> how often."""
    lines = (lab.folder / "places").read_text().splitlines()
    return Counter((what, process) for what, _, process in (line.rpartition(" ") for line in lines))


def has_committed(lab: Lab) -> bool:
    return any((lab.store / "objects").glob("*/*"))


def assert_lost(ended: Ended, what: str) -> None:
    """Exit code 1, and one line that says which service is gone."""
    assert ended.code == 1, ended.err
    (line,) = ended.err.strip().splitlines()
    assert line.startswith(f"talkset: the {what}"), line
    assert "is gone" in line
    assert "what was committed is kept" in line


def test_scheduler_of_its_own_places_the_steps_and_gives_the_same_id(base: Base, make_lab: MakeLab) -> None:
    """K-04: what the dataset asks of a worker is kept to, and does not show in the snapshot."""
    lab = make_lab(block={"resources": {"cut": {"CUTTER": 1}}})
    with lab.cluster((), CUTTER, env=_noted(lab)) as cluster:
        answer = lab.done("--scheduler", cluster.address)
        ran = _places(lab)
    assert answer["id"] == base.answer["id"]
    assert_whole(lab, base.answer["id"])
    plain, cutter = (str(worker.pid) for worker in cluster.workers)
    assert (ran["cut began", cutter], ran["cut began", plain]) == (3, 0)
    assert ran["extract ended", plain] + ran["extract ended", cutter] == 3 * len(FEATURES)


def test_killed_scheduler_ends_the_run_with_one_line_and_a_rerun_goes_on(base: Base, make_lab: MakeLab) -> None:
    """K-04: what was committed before is not computed again."""
    lab = make_lab()
    with lab.cluster((), env={"TALKSET_TEST_PAUSE": "0.5"}) as cluster:
        run = lab.start("--scheduler", cluster.address)
        run.wait_for(lambda: has_committed(lab), 240)
        cluster.scheduler.kill()
        assert_lost(run.end(180), f"Dask cluster {cluster.address}")
        assert run.orphans() == []
    assert not (lab.store / "snapshots").exists()
    kept = len(list(ObjectStore(lab.store).keys()))
    answer = lab.done("--workers", "1")
    assert (answer["id"], answer["steps_computed"]) == (base.answer["id"], 3 * NUM_STEPS - kept)
    assert_whole(lab, base.answer["id"])


def test_killed_server_costs_only_the_view_of_the_run(base: Base, make_lab: MakeLab) -> None:
    """K-05: the work goes on without the server that the run has started; the end is one line, and nothing is lost."""
    lab = make_lab()
    lab.api_url = None
    run = lab.start("--workers", "1", env=FEW_RETRIES)
    run.wait_for(lambda: is_computing(lab), 240)
    server = run.server()
    assert server is not None
    server.kill()
    assert_lost(run.end(180), "Prefect server http://127.0.0.1:")
    assert run.orphans() == []
    assert_whole(lab, base.answer["id"])
    again = lab.done()
    assert (again["status"], again["id"], again["steps_computed"]) == ("unchanged", base.answer["id"], 0)


def test_no_server_means_none(base: Base, make_lab: MakeLab) -> None:
    """K-05: --no-server starts no server, imports none, and gives the same snapshot."""
    lab = make_lab()
    lab.api_url = None
    modules = lab.folder / "modules"
    run = lab.start("--no-server", "--workers", "1", env={"TALKSET_TEST_MODULES": str(modules)})
    run.wait_for(lambda: is_computing(lab), 240)
    assert run.workers() != []
    assert run.server() is None
    ended = run.end()
    assert ended.code == 0, ended.err
    assert ended.answer["id"] == base.answer["id"]
    assert_whole(lab, base.answer["id"])
    assert not {"uvicorn", "prefect.server.api.server"} & set(modules.read_text().split())
    assert not (lab.store / "state" / "prefect").exists()


def test_worker_that_wakes_after_it_was_given_up_changes_nothing(base: Base, make_lab: MakeLab) -> None:
    """K-08: another worker has done its step meanwhile; the late one finds the key and drops its copy."""
    lab = make_lab()
    env = {**_noted(lab), "TALKSET_TEST_PAUSE": "0.5", "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}
    with lab.cluster((), (), env=env) as cluster:
        run = lab.start("--scheduler", cluster.address)
        entry = run.wait_for(lambda: next((lab.store / "staging").glob("*/object"), None), 240).parent
        worker = _worker_of(cluster, entry)
        worker.suspend()
        assert entry.is_dir(), "it was to be stopped in the middle of its step"
        run.wait_for(lambda: _is_committed(lab, entry), 240)
        assert entry.is_dir()
        worker.resume()
        ended = run.end()
        psutil.wait_procs([worker], timeout=30)
    assert ended.code == 0, ended.err
    assert ended.answer["id"] == base.answer["id"]
    assert _places(lab)["cut ended", str(worker.pid)] == 1, "it was to come to the end of its step"
    assert not entry.exists()
    assert_whole(lab, base.answer["id"])


def _worker_of(cluster: Cluster, entry: Path) -> psutil.Popen:
    """Whose staging entry <key>-<pid>-<random> it is."""
    pid = int(entry.name.split("-")[1])
    return next(worker for worker in cluster.workers if worker.pid == pid)


def _is_committed(lab: Lab, entry: Path) -> bool:
    key = entry.name.split("-")[0]
    return any(found.startswith(key) for found in ObjectStore(lab.store).keys())


def test_source_that_takes_all_memory_costs_only_itself(make_lab: MakeLab) -> None:
    """K-09: the worker is killed at its limit; the source is failed, its neighbour done, and a calmer run mends it."""
    lab = make_lab(features={"landmarks": {}}, block={"shard_minutes": 0.02})
    for path in sorted(lab.root.rglob("*.mp4"))[2:]:
        path.unlink()
    options = ("--no-server", "--workers", "1", "--worker-memory", "1500MiB")
    ended = lab.refresh(*options, env={"TALKSET_TEST_HOG": "000.mp4"})
    assert ended.code == 3, ended.err
    assert list(ended.answer["failed"]) == ["P00/000.mp4"]
    assert "KilledWorker" in ended.answer["failed"]["P00/000.mp4"]
    assert ended.answer["counts"]["sources"] == {"total": 2, "done": 1, "rejected": 0, "failed": 1, "duplicate_of": 0}
    mended = lab.done("--retry-failed", *options)
    assert (mended["counts"]["sources"]["done"], mended["steps_computed"]) == (2, 2)
    assert verify_snapshot(lab.snapshot()).problems == ()
