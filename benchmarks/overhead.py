"""What Prefect and Dask cost per step of a shard: 1,000 steps through the real fan-out with the work itself left out.

    python -m benchmarks.overhead [--steps 1000]

125 shards of ten minutes, each of 150 MEAD takes of four seconds (long argument lists: the hardest case), go through
flows.execution.fan_out with two local workers: first inside a flow on a Prefect server with a fresh database, then
without Prefect. Tasks, arguments, logs and the progress artifact are those of a refresh; in the workers the two
functions that would read video return a result at once. A real clip through the real steps (TALKSET_MEDIA) says what a
step on ten minutes of video takes. Every stage is a process of its own; starting servers and workers is not counted.
What servers, schedulers and samplers take while time passes is measured apart, beside steps that compute for long.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from benchmarks.table import Row, finish
from storage.emotions import EMOTIONS
from storage.keys import sha256_hex
from storage.records import Source, StepResult

NUM_STEPS = 1_000
MAX_SHARE = 0.05
MAX_GROWTH_MIB = 32.0  # half of what the futures of 750 steps would take if they were held, 85 KB each
_NUM_WORKERS = 2
_SHARD_FRAMES = 10 * 60 * 25
_TAKES, _TAKE_S = 150, 4.0
_RSS_AT = (0.25, 1.0)  # of the steps submitted
_LONG_S = 20.0
_RECORDS_TIMEOUT_S = 120.0
_CLIPS = ("cropped_256_25fps_60s.mp4", "portrait_1080x1920_30fps_hevc.mp4")  # the least work per frame, and usual work
_LEFT_OUT = "blendshapes"  # needs a model that is not everywhere


def main() -> None:
    """Runs every stage in a fresh process, prints the rows."""
    num_steps = int(_option("--steps", str(NUM_STEPS)))
    if "--stage" in sys.argv:
        print(json.dumps(_STAGES[_option("--stage", "")](Path(_option("--folder", "")), num_steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        finish(_rows(*(_run(name, folder, num_steps) for name in _STAGES)))


# ---- rows


def _rows(prefect: dict[str, float], plain: dict[str, float], video: dict[str, float]) -> list[Row]:
    return [
        _cpu_row("step under Prefect and Dask, CPU", prefect),
        _wall_row("step under Prefect and Dask, wall", prefect),
        _cpu_row("step under Dask alone (--no-server), CPU", plain),
        _wall_row("step under Dask alone (--no-server), wall", plain),
        _share_row(prefect, plain, video),
        _standing_row("all processes while steps compute", prefect),
        _standing_row("all processes while steps compute (--no-server)", plain),
        _records_row(prefect),
        _growth_row("driver's memory", prefect),
        _growth_row("driver's memory (--no-server)", plain),
        _server_row(prefect),
    ]


def _cpu_row(what: str, found: Mapping[str, float]) -> Row:
    parts = ", ".join(f"{name} {1000 * found[f'{name}_s'] / found['steps']:.1f}" for name in _parts(found))
    return Row(what, f"{_overhead_ms(found):.1f} ms", notes=f"{parts} ms; {found['steps']:.0f} steps")


def _wall_row(what: str, found: Mapping[str, float]) -> Row:
    notes = (
        f"{_NUM_WORKERS} workers; load average {found['load_before']:.1f} before, {found['load_after']:.1f} after; "
        f"others kept {found['others_cores']:.1f} cores busy"
    )
    return Row(what, f"{1000 * found['wall_s'] / found['steps']:.1f} ms", notes=notes)


def _share_row(prefect: Mapping[str, float], plain: Mapping[str, float], video: Mapping[str, float]) -> Row:
    small_ms, large_ms = (video[clip] * _SHARD_FRAMES / video["steps"] for clip in _CLIPS)
    share = _overhead_ms(prefect) / small_ms
    notes = (
        f"of {small_ms / 1000:.1f} CPU s per step: {video[_CLIPS[0]]:.2f} ms per frame of {_CLIPS[0]}, "
        f"{_SHARD_FRAMES:,} frames, {video['steps']:.0f} steps; {_overhead_ms(prefect) / large_ms:.1%} of "
        f"{large_ms / 1000:.1f} s with {_CLIPS[1]}; without Prefect {_overhead_ms(plain) / small_ms:.1%}"
    )
    bar = f"< {MAX_SHARE:.0%}"
    return Row("overhead at ten minutes of video per shard", f"{share:.1%}", bar, share < MAX_SHARE, notes)


def _standing_row(what: str, found: Mapping[str, float]) -> Row:
    parts = ", ".join(f"{name} {found[f'{name}_standing']:.1%}" for name in _parts(found))
    total = sum(found[f"{name}_standing"] for name in _parts(found))
    notes = f"{parts}; beside {_NUM_WORKERS} steps of {_LONG_S:.0f} s, {total / _NUM_WORKERS:.1%} of their cores"
    return Row(what, f"{total:.1%} of a core", notes=notes)


def _records_row(found: Mapping[str, float]) -> Row:
    notes = f"completed ones, {found['drain_s']:.1f} s after the last step; {found['logs']:.0f} log lines"
    is_met = found["records"] == found["steps"]
    return Row(
        "task runs recorded by the server", f"{found['records']:.0f}", f"all {found['steps']:.0f}", is_met, notes
    )


def _growth_row(what: str, found: Mapping[str, float]) -> Row:
    growth = found["rss_last_mib"] - found["rss_first_mib"]
    notes = (
        f"{found['rss_first_mib']:.0f} and {found['rss_last_mib']:.0f} MiB with a quarter and all of the steps "
        f"submitted; at most {found['held']:.0f} futures held"
    )
    return Row(what, f"{growth:+.1f} MiB", f"< {MAX_GROWTH_MIB:.0f} MiB", growth < MAX_GROWTH_MIB, notes)


def _server_row(found: Mapping[str, float]) -> Row:
    figure = f"{found['server_before_mib']:.0f} to {found['server_after_mib']:.0f} MiB"
    notes = f"database {found['database_kb'] / found['steps']:.1f} KB per task run, with its events and logs"
    return Row("server's memory", figure, notes=notes)


def _parts(found: Mapping[str, float]) -> list[str]:
    return [name for name in ("driver", "workers", "server") if f"{name}_s" in found]


def _overhead_ms(found: Mapping[str, float]) -> float:
    return 1000 * sum(found[f"{name}_s"] for name in _parts(found)) / found["steps"]


# ---- stages, each in its own process


def _with_prefect(folder: Path, num_steps: int) -> dict[str, float]:
    """The fan-out inside a flow, as flows.cli.run_refresh starts it."""
    from flows.reporting.logs import silence_console
    from flows.server.prefect_server import free_port, own_server

    home = folder / "prefect"
    with own_server(home, free_port()):
        from prefect import flow
        from prefect.logging.handlers import APILogHandler

        silence_console()
        before_mib, before_bytes = _rss_mib(*_servers()), _query(home, _SIZE_SQL)
        run: Any = flow(name="overhead", validate_parameters=False, persist_result=False)(_compute)
        found = run(folder, num_steps)
        APILogHandler().flush()
        return found | {
            "server_before_mib": before_mib,
            "server_after_mib": _rss_mib(*_servers()),
            "database_kb": (_query(home, _SIZE_SQL) - before_bytes) / 1024,
            "logs": _query(home, "SELECT count(*) FROM log WHERE task_run_id IS NOT NULL"),
        }


def _without_prefect(folder: Path, num_steps: int) -> dict[str, float]:
    """The same on Dask alone."""
    from flows.server.prefect_server import set_defaults

    set_defaults()
    return _compute(folder, num_steps)


def _video(folder: Path, num_steps: int) -> dict[str, float]:
    """CPU per frame of the cut and the extractors on real clips, when models and kernels are loaded.

    A frame is one of the file: of a 30-fps clip there are more than 25 per second, which makes its step look shorter.
    """
    import cv2

    from benchmarks.pipeline import TOTALS, measure

    media = Path(os.environ.get("TALKSET_MEDIA", "../shared/media")) / "sources"
    if not media.is_dir():
        sys.exit(f"{media} is absent: set TALKSET_MEDIA to the folder with the real clips")
    cv2.setNumThreads(1)
    found: dict[str, float] = {}
    for clip in _CLIPS:
        parts = [measure(folder, media / clip) for _ in range(2)][-1]
        found |= {clip: 1000 * parts["whole"] / parts["frames"], "steps": len(parts.keys() - set(TOTALS))}
    return found


_STAGES: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "prefect": _with_prefect, "plain": _without_prefect, "video": _video,
}  # fmt: skip


def _run(stage: str, folder: str, num_steps: int) -> dict[str, float]:
    # Not with -m: what is defined in __main__ travels to workers by value, which a refresh does not.
    call = "from benchmarks.overhead import main; main()"
    command = [sys.executable, "-c", call, "--stage", stage, "--folder", folder]
    home = {"PREFECT_HOME": f"{folder}/prefect", "MEAD_ROOT": folder, "TALKSET_QUIET": "1"}
    done = subprocess.run(
        [*command, "--steps", str(num_steps)], stdout=subprocess.PIPE, text=True, check=True, env=os.environ | home
    )
    return json.loads(done.stdout.splitlines()[-1])


def _option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


# ---- the fan-out and its meter


@dataclass(slots=True)
class Meter:
    """A runner that counts what goes through it.

    Attributes:
        runner: the real one.
        rss_at: numbers of submitted steps at which the driver's memory is read.
        num_submitted: steps so far.
        num_held: most futures the client knew at once.
        rss_mib: what was read.
    """

    runner: Any
    rss_at: Sequence[int]
    num_submitted: int = 0
    num_held: int = 0
    rss_mib: list[float] = field(default_factory=list)

    @property
    def client(self) -> Any:
        """Of the cluster."""
        return self.runner.client

    def submit(self, task: Any, parameters: dict[str, Any]) -> Any:
        """Hands the step on."""
        future = self.runner.submit(task, parameters)
        self.num_submitted += 1
        self.num_held = max(self.num_held, len(self.client.futures))
        if self.num_submitted in self.rss_at:
            self.rss_mib.append(_rss_mib(psutil.Process()))
        return future


def _compute(folder: Path, num_steps: int) -> dict[str, float]:
    """All steps through execution.fan_out, with Prefect where there is a server; seconds, bytes and counts of it."""
    from flows.execution import fan_out
    from flows.execution.dask_cluster import make_runner

    servers = _servers()
    run, work = _plan(folder, num_steps, has_server=bool(servers))
    found: dict[str, float] = {"steps": num_steps}

    @contextmanager
    def metered(options: Any) -> Iterator[Meter]:
        with make_runner(options) as runner:
            pids: Any = runner.client.run(_leave_out_the_work)
            processes = {"driver": [psutil.Process()], "workers": [psutil.Process(pid) for pid in pids.values()]}
            if servers:
                processes["server"] = servers
            meter = Meter(runner, [round(share * num_steps) for share in _RSS_AT])
            with _measured(found, processes):
                yield meter
            found.update(_standing(runner.client, processes))
            found.update(held=meter.num_held, rss_first_mib=meter.rss_mib[0], rss_last_mib=meter.rss_mib[-1])

    with patch.object(fan_out, "make_runner", metered):
        computed = fan_out.compute(run, work)
    assert computed.num_new == num_steps, computed.failed
    return found


@contextmanager
def _measured(found: dict[str, float], processes: Mapping[str, list[psutil.Process]]) -> Iterator[None]:
    """Wall and CPU seconds of the block; of the server, until everything is recorded."""
    found["load_before"] = os.getloadavg()[0]
    began, busy, cpu = time.perf_counter(), _busy_s(), _cpu_s(processes)
    yield
    found["wall_s"] = time.perf_counter() - began
    ended, found["load_after"] = _cpu_s(processes), os.getloadavg()[0]
    others_s = _busy_s() - busy - sum(ended.values()) + sum(cpu.values())
    found["others_cores"] = max(0.0, others_s) / found["wall_s"]
    if "server" in processes:
        found |= _await_records(int(found["steps"]))
        ended["server"] = _cpu_s(processes)["server"]
    found |= {f"{name}_s": seconds - cpu[name] for name, seconds in ended.items()}


def _standing(client: Any, processes: Mapping[str, list[psutil.Process]]) -> dict[str, float]:
    """Cores that each group of processes takes, beside what the one long step on every worker takes for itself."""
    began = _cpu_s(processes)
    steps_s = sum(client.gather([client.submit(_compute_long, pure=False) for _ in range(_NUM_WORKERS)]))
    spent = {name: seconds - began[name] for name, seconds in _cpu_s(processes).items()}
    spent["workers"] -= steps_s
    return {f"{name}_standing": seconds / _LONG_S for name, seconds in spent.items()}


def _plan(folder: Path, num_steps: int, has_server: bool) -> tuple[Any, list[Any]]:
    """A run over the `mead` block of datasets.yaml with an empty store, and shards enough for `num_steps`."""
    from flows.pipeline.prepare import Run, absolute_dataset
    from flows.refresh_options import RefreshOptions
    from flows.reporting.artifacts import ProgressArtifact
    from flows.reporting.progress import Progress
    from tasks.inventory import Inventory
    from tasks.plan import make_plan
    from tasks.shard_work import find_work, resolve_features

    options = RefreshOptions(dataset="mead", store=folder / "store", workers=_NUM_WORKERS, has_server=has_server)
    dataset, progress = absolute_dataset(options), Progress(options.is_quiet)
    progress.watch(ProgressArtifact(options.dataset))
    params, skipped = resolve_features(dataset)
    params = {name: one for name, one in params.items() if name != _LEFT_OUT}
    run = Run(options, dataset, progress, Inventory((), 0, 0), params, skipped)
    num_shards, rest = divmod(num_steps, 1 + len(run.params))
    assert not rest, f"--steps must be a multiple of {1 + len(run.params)}, the steps of a shard"
    sources = [_take(subject, take) for subject in range(num_shards) for take in range(_TAKES)]
    plan = make_plan(sources, [], [], run.dataset.shard_minutes)
    work = find_work(plan, {source.source_id: source.member() for source in sources}, run.dataset, run.params,
                     run.objects)  # fmt: skip
    assert len(work) == num_shards
    return run, work


def _take(subject: int, take: int) -> Source:
    """A line of an inventory of MEAD, audio beside the video."""
    person, emotion, number = f"M{subject:03d}", EMOTIONS[take % 8], f"{take // 8:03d}"
    video, audio = (
        f"{person}/{kind}/{emotion}/level_1/{number}.{end}" for kind, end in (("video/front", "mp4"), ("audio", "m4a"))
    )
    return Source(
        video, video.encode().hex(), "raw", f"{person}#{emotion}#level_1#{number}", person,
        {"view": "front", "emotion": emotion, "level": "1", "take": number}, 1_000_000, sha256_hex(video.encode()),
        _TAKE_S, audio.encode().hex(), sha256_hex(audio.encode()),
    )  # fmt: skip


# ---- in the workers


def _leave_out_the_work() -> int:
    """Replaces, in this worker, what reads video and computes; returns its process id."""
    import tasks.cut
    import tasks.extract
    from tasks import features

    features.discover()
    tasks.cut.cut_shard = _cut_nothing  # pyright: ignore[reportAttributeAccessIssue]
    tasks.extract.extract_shard = _extract_nothing  # pyright: ignore[reportAttributeAccessIssue]
    return os.getpid()


def _cut_nothing(shard_id: str, sources: Sequence[Source], *_: Any) -> StepResult:
    return _result("cut", shard_id, tuple(source.source_id for source in sources))


def _extract_nothing(name: str, _: Any, cut: StepResult, *__: Any) -> StepResult:
    return _result(name, cut.shard_id, cut.source_ids)


def _result(step: str, shard_id: str, source_ids: tuple[str, ...]) -> StepResult:
    key = sha256_hex(f"{step} {shard_id}".encode())
    return StepResult(step, shard_id, source_ids, key, key, 10_000_000, len(source_ids), 1.0, True)


def _compute_long() -> float:
    """Keeps one core busy for a while; CPU seconds of this thread alone."""
    began, until = time.thread_time(), time.perf_counter() + _LONG_S
    numbers = np.ones(100_000)
    while time.perf_counter() < until:
        np.sqrt(numbers, out=numbers)
    return time.thread_time() - began


# ---- what is read of processes, the server and its database


def _servers() -> list[psutil.Process]:
    """The Prefect server that this process has started, if it has."""
    return [child for child in psutil.Process().children() if "prefect.server.api.server:create_app" in child.cmdline()]


def _cpu_s(processes: Mapping[str, list[psutil.Process]]) -> dict[str, float]:
    """User and system seconds so far."""
    times = {name: [process.cpu_times() for process in group] for name, group in processes.items()}
    return {name: sum(one.user + one.system for one in group) for name, group in times.items()}


def _busy_s() -> float:
    """Seconds that all cores together have been busy since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "steal", 0.0)


def _rss_mib(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def _await_records(num_steps: int) -> dict[str, float]:
    """Polls until the server has every task run as completed, or the time is up."""
    url = os.environ["PREFECT_API_URL"]
    body = json.dumps({"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}).encode()
    request = urllib.request.Request(f"{url}/task_runs/count", body, {"Content-Type": "application/json"})
    began = time.monotonic()
    while True:
        with urllib.request.urlopen(request, timeout=30) as answer:
            records = int(json.load(answer))
        waited_s = time.monotonic() - began
        if records >= num_steps or waited_s > _RECORDS_TIMEOUT_S:
            return {"records": records, "drain_s": waited_s}
        time.sleep(0.2)


_SIZE_SQL = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"


def _query(home: Path, sql: str) -> float:
    """One number out of the server's database."""
    database = sqlite3.connect(f"file:{home / 'prefect.db'}?mode=ro", uri=True)
    try:
        return float(database.execute(sql).fetchone()[0])
    finally:
        database.close()


if __name__ == "__main__":
    main()
