"""A small laboratory for whole refreshes: six short real clips, a catalog, and talkset runs in processes of their own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import yaml

from storage.catalog import load_dataset
from storage.snapshot import Snapshot
from tasks.media.audio import read_audio
from tasks.media.encode import VideoFormat, VideoWriter
from tests.conftest import REPOSITORY

FRAMES, STEP, SIZE = 30, 45, 256
DRIVER = Path(__file__).with_name("driver.py")
FEATURES: dict[str, dict[str, Any]] = {
    "mel": {}, "landmarks": {}, "bbox": {}, "face3d": {}, "quality": {}, "sync": {},
}  # fmt: skip
NUM_STEPS = 1 + len(FEATURES)


def write_clips(root: Path, media: Path) -> list[Path]:
    """Three subjects with two takes of 30 frames each, different stretches of one real clip."""
    source = media / "cropped_256_25fps_60s.mp4"
    track = read_audio(source)
    assert track is not None
    pictures = _pictures(source, 5 * STEP + FRAMES)
    paths = [root / f"P{number // 2:02d}" / f"{number:03d}.mp4" for number in range(6)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, pictures[number * STEP : number * STEP + FRAMES], track.samples[number * STEP * 640 :])
    return paths


def write_clip(path: Path, pictures: Sequence[np.ndarray], samples: np.ndarray) -> None:
    """One mp4 of I420 pictures [384, 256] and as much sound."""
    with VideoWriter(path, VideoFormat(SIZE, SIZE, Fraction(25), audio_rate_hz=16000)) as writer:
        for planes in pictures:
            u, v = planes[SIZE : SIZE * 5 // 4], planes[SIZE * 5 // 4 :]
            writer.write_yuv(planes[:SIZE], u.reshape(SIZE // 2, -1), v.reshape(SIZE // 2, -1))
        writer.write_audio(samples[: len(pictures) * 640])


def _pictures(source: Path, count: int) -> list[np.ndarray]:
    with av.open(str(source)) as container:
        frames = (frame.reformat(format="yuv420p").to_ndarray() for frame in container.decode(video=0))
        return [planes for planes, _ in zip(frames, range(count), strict=False)]


@dataclass
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def answer(self) -> dict[str, Any]:
        """What --json printed."""
        return json.loads(self.out)


@dataclass
class Lab:
    """One dataset (root, catalog) and one store."""

    folder: Path
    root: Path
    api_url: str | None = None
    features: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(FEATURES))
    block: dict[str, Any] = field(default_factory=dict)
    pattern: str = "{subject}/{take}.mp4"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_catalog()

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def catalog(self) -> Path:
        return self.folder / "datasets.yaml"

    def write_catalog(self) -> None:
        """The block `small`, with what `features` and `block` say now."""
        layout = {
            "pattern": self.pattern,
            "name": "{subject}#{take}",
            "clips": {"length_s": "whole", "min_tail_s": 0.4},
        }
        block = {
            "root": str(self.root), "shard_minutes": 0.04, "layouts": {"files": layout}, "features": self.features,
            "split": {"test": ["P02"], "val_share": 0.0}, **self.block,
        }  # fmt: skip
        text = yaml.safe_dump({"small": block})
        # another process of the tests may be reading what is right already
        if not self.catalog.exists() or self.catalog.read_text() != text:
            self.catalog.write_text(text)

    def dataset(self):
        return load_dataset("small", self.catalog)

    def snapshot(self, which: str | int = "latest") -> Snapshot:
        return Snapshot.open(self.store, which)

    def start(self, *args: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> "Running":
        """Starts `talkset refresh small` in a session of its own."""
        command = [*prefix, sys.executable, str(DRIVER), "refresh", "small", "--json",
                   "--store", str(self.store), "--catalog", str(self.catalog), *args]  # fmt: skip
        return Running(command, self._environment(env or {}), self.folder)

    def talkset(self, command: str, *args: str) -> Ended:
        """Runs another command on the store to its end."""
        line = [sys.executable, str(DRIVER), command, "--json", "--store", str(self.store), *args]
        return Running(line, self._environment({}), self.folder).end()

    def refresh(self, *args: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> Ended:
        """Runs `talkset refresh small` to its end."""
        return self.start(*args, env=env, prefix=prefix).end()

    def done(self, *args: str, **given: Any) -> dict[str, Any]:
        """The answer of a refresh that must succeed."""
        ended = self.refresh(*args, **given)
        assert ended.code == 0, ended.err
        return ended.answer

    @contextlib.contextmanager
    def cluster(self, *workers: Sequence[str], env: dict[str, str] | None = None) -> Iterator["Cluster"]:
        """A Dask scheduler on loopback with one worker process for each of `workers`, their arguments."""
        cluster = Cluster(self.folder, self._environment(env or {}))
        try:
            for args in workers:
                cluster.add_worker(*args)
            yield cluster
        finally:
            cluster.stop()

    def _environment(self, extra: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TALKSET_"))}
        url = {"PREFECT_API_URL": self.api_url} if self.api_url else {}
        return {**kept, "PYTHONPATH": str(REPOSITORY), **url, **extra}


class Cluster:
    """A scheduler and workers that no talkset command has started."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._logs: list[Path] = []
        self.workers: list[psutil.Popen] = []
        self.scheduler = self._start("scheduler", "--port", "0")
        self.address = self._logged(r"Scheduler at: +(tcp://\S+)")

    def add_worker(self, *args: str) -> None:
        """A process of one thread; the scheduler knows it when this returns."""
        # Without a nanny one that dies stays dead, and one that is stopped is not killed for it.
        worker = self._start("worker", self.address, "--no-nanny", "--nthreads", "1", "--preload", "tests.flows.driver",
                             "--local-directory", str(self._folder), *args)  # fmt: skip
        self.workers.append(worker)
        self._logged(r"(Registered to:)")

    def stop(self) -> None:
        """Kills what is left of it."""
        for process in (self.scheduler, *self.workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()

    def _start(self, what: str, *args: str) -> psutil.Popen:
        here = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
        command = [sys.executable, "-m", "dask", what, *args, *here]
        self._logs.append(self._folder / f"{what}-{len(self._logs)}.log")
        with self._logs[-1].open("wb") as log:
            return psutil.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )

    def _logged(self, pattern: str, timeout_s: float = 60) -> str:
        """The group of `pattern` in the log of the process started last."""
        deadline = time.monotonic() + timeout_s
        while True:
            log = self._logs[-1].read_text()
            found = re.search(pattern, log)
            if found:
                return found[1]
            assert time.monotonic() < deadline, log
            time.sleep(0.05)


class Running:
    """A talkset process; everything it starts carries its mark in the environment."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.began = time.monotonic()
        self._out, self._err = (folder / f"{self.mark}.{name}" for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, env={**environment, "TALKSET_TEST_MARK": self.mark}, stdout=out, stderr=err,
                stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder,
            )  # fmt: skip

    def end(self, timeout_s: float = 240) -> Ended:
        """Waits for the end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"still running after {timeout_s} s: {self._err.read_text()[-2000:]}") from None
        return Ended(code, self._out.read_text(), self._err.read_text(), time.monotonic() - self.began)

    def family(self) -> list[psutil.Process]:
        """Every living process of this run, itself included."""
        return [process for process in psutil.process_iter() if _mark_of(process) == self.mark]

    def server(self) -> psutil.Process | None:
        """The Prefect server that it has started, if it has."""
        return next((process for process in self.family() if "uvicorn" in _command(process)), None)

    def workers(self) -> list[psutil.Process]:
        """The processes that do the work (spawned by the cluster)."""
        return [process for process in self.family() if "spawn_main" in " ".join(_command(process))]

    def wait_for(self, what: Any, timeout_s: float = 60) -> Any:
        """The first true answer of `what()`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = what()
            if found:
                return found
            assert self.process.poll() is None, self._err.read_text()
            time.sleep(0.05)
        raise AssertionError(f"did not happen in {timeout_s} s")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill_group(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_all(self) -> None:
        for process in self.family():
            process.kill()
        self.process.wait()

    def orphans(self, within_s: float = 10) -> list[str]:
        """What is still alive `within_s` after the end."""
        deadline = time.monotonic() + within_s
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [" ".join(_command(process)) for process in left]


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("TALKSET_TEST_MARK") if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
