"""The whole of it as its users use it: `talkset serve`, `prefect deployment run`, training downstream, artifacts."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from flows.server.prefect_server import free_port
from storage.runs import list_runs
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from tests.conftest import REPOSITORY
from tests.flows.lab import FEATURES, Lab

pytestmark = pytest.mark.timeout(420)
DEPLOYMENTS = {
    "refresh/mead", "refresh/hdtf", "refresh/demo", "train/edtalk", "train/emogene", "train/realtalk", "maintain/gc",
}  # fmt: skip


class Served:
    """`talkset serve` in a process of its own, with stores and a catalog of its own, and its server's API."""

    def __init__(self, folder: Path, clips: Path) -> None:
        self.folder, self.stores = folder, folder / "stores"
        self.catalog = _catalog(folder, clips)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TALKSET_"))}
        self.environment = {
            **kept,
            "PYTHONPATH": str(REPOSITORY),
            "TALKSET_STORES": str(self.stores),
            "OMP_NUM_THREADS": "1",
        }
        self.log = folder / "serve.log"
        command = [sys.executable, "-m", "flows", "serve", "--home", str(folder / "home"), "--project",
                   str(REPOSITORY), "--port", str(self.port), "--poll", "1"]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_up(self) -> None:
        self.wait_for(lambda: "run one with" in self.log.read_text(), 150)

    def wait_for(self, what: Callable[[], Any], timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.said()
            found = what()
            if found:
                return found
            time.sleep(0.3)
        raise AssertionError(f"did not happen in {timeout_s} s: {self.said()}")

    def said(self) -> str:
        """All logs, for a failure's message."""
        logs = [self.log, *sorted((self.folder / "home").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs if log.exists())

    def post(self, path: str, **body: Any) -> Any:
        return httpx.post(f"{self.url}/{path}", json=body, timeout=30).raise_for_status().json()

    def flow_runs(self, name: str) -> list[dict[str, Any]]:
        """Runs of a flow that were started, oldest first; those that a schedule has planned are none."""
        found = self.post("flow_runs/filter", flows={"name": {"any_": [name]}}, sort="START_TIME_ASC")
        return [run for run in found if "auto-scheduled" not in run["tags"]]

    def deployment_run(self, name: str) -> None:
        """The user's command, to its end."""
        command = [
            sys.executable,
            "-m",
            "prefect",
            "deployment",
            "run",
            name,
            "--param",
            f'catalog="{self.catalog}"',
            "--watch",
        ]
        ended = subprocess.run(
            command, env={**self.environment, "PREFECT_API_URL": self.url}, cwd=self.folder, capture_output=True,
            text=True, timeout=200, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}\n{self.said()}"

    def family(self) -> list[psutil.Process]:
        return [self.process_info(), *self.process_info().children(recursive=True)]

    def process_info(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


def _catalog(folder: Path, clips: Path) -> Path:
    """The block `demo`, which the deployment refreshes, over the laboratory's clips and with a policy they can meet."""
    block = yaml.safe_load(Lab(folder, clips).catalog.read_text())["small"]
    block["training"] = {
        "systems": ["edtalk"], "preset": "smoke", "stages": ["reconstruction"], "device": "any", "min_clips": 4, "min_subjects": 2, "min_free_gib": 0.2,
    }  # fmt: skip
    file = folder / "catalog.yaml"
    file.write_text(yaml.safe_dump({"demo": block}))
    return file


@pytest.fixture(scope="module")
def served(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"), clips)
    try:
        served.wait_until_up()
        yield served
    finally:
        if served.process.poll() is None:
            served.process.send_signal(signal.SIGINT)
            served.process.wait(120)


def test_refresh_trains_downstream_once(served: Served) -> None:
    """From the command to a checkpoint: snapshot, artifacts, a training run of its own; a second run triggers nothing."""
    served.deployment_run("refresh/demo")
    snapshot = Snapshot.open(served.stores / "demo")
    assert snapshot.body.counts["clips"]["kept"] == 6
    trained = served.wait_for(
        lambda: [run for run in served.flow_runs("train") if run["state_type"] == "COMPLETED"], 200
    )
    assert [run["name"] for run in trained] == [f"train-edtalk-{snapshot.id[:12]}"]
    assert trained[0]["parameters"]["snapshot"] == snapshot.id
    record = list_runs(snapshot.store)[0]
    assert (record.state, record.key.snapshot) == ("done", snapshot.id)
    assert (run_folder(snapshot.store, record.id) / record.model().file).stat().st_size == record.model().num_bytes
    assert (snapshot.store / "pins" / record.id).read_text() == snapshot.id

    served.deployment_run("refresh/demo")
    first, second = served.flow_runs("refresh")
    assert [run["state_name"] for run in (first, second)] == ["Done", "Unchanged"]
    assert len(served.flow_runs("train")) == 1
    assert Snapshot.open(served.stores / "demo").id == snapshot.id


def test_runs_can_be_watched(served: Served) -> None:
    """Task runs named for dataset, step and shard; workers' logs; artifacts of each kind."""
    snapshot = Snapshot.open(served.stores / "demo")
    run = served.flow_runs("refresh")[0]
    wanted = {f"demo-{step}-{shard.shard_id}" for shard in snapshot.body.shards for step in ("cut", *FEATURES)}
    query = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    served.wait_for(lambda: {task["name"] for task in served.post("task_runs/filter", **query)} == wanted, 30)
    lines = [line["message"] for line in served.post("logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})]
    assert any(
        line.startswith(f"cut of shard {snapshot.body.shards[0].shard_id}: 2 sources, 2 clips") for line in lines
    )
    artifacts = {item["key"]: item for item in served.post("artifacts/filter", **query) if item["key"]}
    kinds = {key: item["type"] for key, item in artifacts.items()}
    assert kinds == {
        "progress-demo": "progress", "summary-demo": "markdown", "contact-sheet-demo": "image", "report-demo": "markdown",
    }  # fmt: skip
    assert artifacts["progress-demo"]["data"] == 100
    assert "| done | 6 |" in artifacts["summary-demo"]["data"]
    assert artifacts["contact-sheet-demo"]["data"].startswith("data:image/jpeg;base64,")


def test_link_of_the_report_opens(served: Served) -> None:
    run = served.flow_runs("refresh")[0]
    found = served.post("artifacts/filter", flow_runs={"id": {"any_": [run["id"]]}})
    link = next(item["data"] for item in found if item["key"] == "report-demo")
    address = link[link.index("(") + 1 : link.rindex(")")]
    with urllib.request.urlopen(address, timeout=10) as page:
        assert b"M003" not in (text := page.read())
        assert b"P00" in text
    root = address.rsplit("/", 3)[0]
    for secret in ("store.json", "snapshots/000001.json", "..%2f..%2fserve.log"):
        assert httpx.get(f"{root}/demo/{secret}").status_code == 404


def test_every_deployment_is_there_with_its_schedule_and_limit(served: Served) -> None:
    found = {f"{_flow_name(served, item)}/{item['name']}": item for item in served.post("deployments/filter")}
    assert set(found) == DEPLOYMENTS
    crons = {name: [entry["schedule"]["cron"] for entry in item["schedules"]] for name, item in found.items()}
    assert {name for name, cron in crons.items() if cron} == {"refresh/mead", "refresh/hdtf", "maintain/gc"}
    assert {item["global_concurrency_limit"]["limit"] for item in found.values()} == {1}
    described = found["refresh/demo"]["parameter_openapi_schema"]["properties"]
    assert all(field.get("description") for field in described.values()), described
    planned = served.post("flow_runs/filter", deployments={"name": {"any_": ["mead"]}})
    assert any("auto-scheduled" in run["tags"] for run in planned)


def test_every_socket_is_on_loopback(served: Served) -> None:
    """S-02: server, workers and report pages of a default start."""
    addresses = {
        connection.laddr.ip
        for process in served.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_second_serve_is_told(served: Served) -> None:
    command = [
        sys.executable,
        "-m",
        "flows",
        "serve",
        "--home",
        str(served.folder / "home"),
        "--port",
        str(free_port()),
    ]
    ended = subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (4, 1), ended.stderr


def test_stopping_takes_everything_down(served: Served) -> None:
    """Last of this file: Ctrl-C, and no process, no socket, no lock is left."""
    family = served.family()
    assert len(family) >= 5
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(120) == 130
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [process.cmdline() for process in alive] == []


def _flow_name(served: Served, deployment: dict[str, Any]) -> str:
    return httpx.get(f"{served.url}/flows/{deployment['flow_id']}", timeout=30).json()["name"]
