"""Planning and publishing 100,000 clips: wall time, CPU time and peak memory of the driving process.

    python -m benchmarks.scale [--clips 100000]

A tree of 100,000 small files (one clip each, the hardest case for planning) and a store in which every step of every
shard is committed under its real key, with tables of the real columns but short rows and no media. Then each command
runs in a process of its own: what a refresh does in its driver before and after the computing, the same on top of
a snapshot, status, explain, and listing the clips. Everything is in the page cache.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from benchmarks.table import Row, finish
from storage.cut_tables import (
    CLIP_COLUMNS,
    CLIP_KEY,
    CLIPS_FILE,
    FRAMES_FOLDER,
    SOURCE_COLUMNS,
    SOURCES_FILE,
    TRACK_COLUMNS,
    TRACKS_FILE,
    clip_key,
)
from storage.objects import ObjectStore
from storage.records import Member
from storage.tables import Column, write_table

NUM_CLIPS = 100_000
MAX_WALL_S = 60.0
MAX_GIB = 1.0
_FRAMES = 2  # arrays in the tables are this short
_CATALOG = """\
scale:
  root: {root}
  layouts:
    raw:
      pattern: "{{subject}}/{{emotion}}/level_{{level:\\\\d+}}/{{take:\\\\d+}}.mp4"
      name: "{{subject}}#{{emotion}}#level_{{level}}#{{take}}"
      clips: {{length_s: whole, min_tail_s: 1.0}}
  features: {{mel: {{}}, mel50: {{}}, landmarks: {{}}, bbox: {{}}, face3d: {{}}, quality: {{}}, sync: {{}}}}
  thresholds: {{quality_face_size_px: {{min: 60}}, quality_valid_share: {{min: 0.8}}}}
  split: {{test: [M003], val_share: 0.05}}
"""


def main() -> None:
    """Builds the store, runs every stage in a fresh process, prints the rows."""
    if "--stage" in sys.argv:
        print(json.dumps(_STAGES[_option("--stage", "")](Path(_option("--folder", "")))))
        return
    num_clips = int(_option("--clips", str(NUM_CLIPS)))
    with tempfile.TemporaryDirectory() as folder:
        _make_tree(Path(folder), num_clips)
        _run("build", folder)
        finish(_rows({name: _run(name, folder) for name in _STAGES if name != "build"}, num_clips))


def _rows(found: Mapping[str, dict[str, float]], num_clips: int) -> list[Row]:
    first = found["publish"]
    peak = max(first["peak_gib"], found["again"]["peak_gib"])
    wall = first["plan_s"] + first["publish_s"]
    parts = (
        f"inventory and plan {first['plan_s']:.1f} s, publish {first['publish_s']:.1f} s; CPU {first['cpu_s']:.1f} s; "
        f"{first['num_shards']:.0f} shards, {first['num_objects']:.0f} objects, one source per clip"
    )
    again = found["again"]
    return [
        Row(
            f"plan and publish {num_clips:,} clips", f"{wall:.1f} s", f"< {MAX_WALL_S:.0f} s", wall < MAX_WALL_S, parts
        ),
        Row("peak memory of that process", f"{peak:.2f} GiB", f"< {MAX_GIB:.0f} GiB", peak < MAX_GIB, "with Prefect"),
        Row("plan and publish, nothing new", f"{again['plan_s'] + again['publish_s']:.1f} s", notes=_notes(again)),
        *(Row(what, f"{found[name]['wall_s']:.1f} s", notes=_notes(found[name])) for name, what in _NAMES.items()),
    ]


def _notes(found: Mapping[str, float]) -> str:
    return f"CPU {found['cpu_s']:.1f} s, peak {found['peak_gib']:.2f} GiB"


_NAMES = {
    "unchanged": "`talkset refresh`, unchanged",
    "status": "`talkset status`",
    "explain": "`talkset explain CLIP`",
    "clips": "open a snapshot, list its clips",
}


# ---- stages, each in its own process


def _build(folder: Path) -> dict[str, float]:
    """Commits a cut and all features of every shard; nothing is synced to disk, because this store is not kept."""
    from flows.pipeline.prepare import plan_work, unlocked_run
    from storage.snapshot import bind_store

    os.fsync = lambda fd: None  # pyright: ignore[reportAttributeAccessIssue]
    options = _refresh_options(folder)
    bind_store(options.store, "scale")
    run = unlocked_run(options)
    for item in plan_work(run).shards:
        cut = _commit_cut(run.objects, run.dataset, item.members)
        keys: dict[str, str] = {}
        for name, params in run.params.items():
            keys[name] = _commit_feature(run.objects, name, params, cut, keys, item.members)
    return {}


def _publish(folder: Path) -> dict[str, float]:
    """What the driver of a refresh does when every step is there."""
    import flows.refresh  # noqa: F401  (the driver has Prefect loaded)
    from flows.code_version import code_version
    from flows.pipeline.fingerprint import remember_fingerprint
    from flows.pipeline.prepare import plan_work, unlocked_run
    from storage.records import ShardResults
    from tasks.publish import RefreshResults, publish_snapshot

    options = _refresh_options(folder)
    began, cpu = time.perf_counter(), time.process_time()
    run = unlocked_run(options)
    work = plan_work(run)
    planned = time.perf_counter()
    results = [ShardResults(item.shard, item.members, item.cut, item.features) for item in work.shards if item.cut]
    found = RefreshResults(work.inventory, work.plan, results, skipped_features=run.skipped)
    snapshot, _ = publish_snapshot(run.dataset, options.store, found, code_version())
    ended = time.perf_counter()
    used = _used(began, cpu)
    assert snapshot.body.counts["clips"]["expected"] == len(work.inventory.sources)
    remember_fingerprint(options.store, run.dataset, work.inventory, snapshot, is_complete=True)
    num_objects = sum(1 for _ in snapshot.body.objects())
    return used | {
        "plan_s": planned - began, "publish_s": ended - planned, "num_shards": len(work.shards),
        "num_objects": num_objects,
    }  # fmt: skip


def _unchanged(folder: Path) -> dict[str, float]:
    """The quick answer of a refresh and no more: nothing is computed if somebody edits the code meanwhile."""
    from flows.pipeline.prepare import open_run

    def answer() -> Any:
        with open_run(options) as run:
            return run.unchanged

    options = _refresh_options(folder)
    return _timed(answer)


def _status(folder: Path) -> dict[str, float]:
    from tasks.store.status import store_status

    return _timed(lambda: store_status(folder / "store"))


def _explain(folder: Path) -> dict[str, float]:
    from storage.snapshot import Snapshot
    from tasks.store.explain import explain

    return _timed(lambda: explain(Snapshot.open(folder / "store"), "M000#happy#level_1#001"))


def _clips(folder: Path) -> dict[str, float]:
    from storage.snapshot import Snapshot

    return _timed(lambda: Snapshot.open(folder / "store").clips())


_STAGES: dict[str, Callable[[Path], dict[str, float]]] = {
    "build": _build, "publish": _publish, "again": _publish, "unchanged": _unchanged, "status": _status,
    "explain": _explain, "clips": _clips,
}  # fmt: skip


def _run(stage: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--stage", stage, "--folder", folder]
    home = {"PREFECT_HOME": f"{folder}/prefect"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | home)
    return json.loads(done.stdout.splitlines()[-1])


def _timed(work: Callable[[], Any]) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    assert work()
    return _used(began, cpu)


def _used(began: float, cpu: float) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "peak_gib": peak}


def _option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


# ---- the store


def _make_tree(folder: Path, num_clips: int) -> None:
    """One file of a few bytes per clip: 60 takes of each of eight emotions per subject."""
    from storage.emotions import EMOTIONS

    for number in range(num_clips):
        subject, take = divmod(number, 8 * 60)
        path = folder / "raw" / f"M{subject:03d}" / EMOTIONS[take % 8] / "level_1" / f"{take // 8:03d}.mp4"
        if take < 8:
            path.parent.mkdir(parents=True)
        path.write_bytes(str(number).encode())
    (folder / "datasets.yaml").write_text(_CATALOG.format(root=folder / "raw"))


def _refresh_options(folder: Path) -> Any:
    from flows.refresh_options import RefreshOptions

    return RefreshOptions(dataset="scale", store=folder / "store", catalog=folder / "datasets.yaml")


def _commit_cut(objects: ObjectStore, dataset: Any, members: Sequence[Member]) -> str:
    from tasks.step_keys import cut_key

    key, inputs = cut_key(dataset, members)
    sources = [_source_row(member.source_id) for member in members]
    with objects.stage("cut", key, inputs) as staging:
        write_table(staging.path / SOURCES_FILE, sources, SOURCE_COLUMNS)
        write_table(
            staging.path / CLIPS_FILE,
            [_clip_row(row["source_id"]) for row in sources],
            CLIP_COLUMNS,
        )
        (staging.path / TRACKS_FILE).write_bytes(_table_bytes(TRACK_COLUMNS, len(members)))
        (staging.path / FRAMES_FOLDER).mkdir()
        (staging.path / FRAMES_FOLDER / "data.mdb").write_bytes(b"left out")
        staging.commit(timing={member.source_id: 1.0 for member in members})
    return key


def _source_row(source_id: str) -> dict[str, Any]:
    return {
        "source_id": source_id, "state": "done", "reason": "", "detail": "", "container": "mov,mp4", "codec": "h264",
        "width_px": 1920, "height_px": 1080, "rotation_deg": 0, "avg_fps": 29.97, "is_variable_rate": False,
        "has_audio": True, "num_slots": 125, "num_corrupt": 0,
    }  # fmt: skip


def _clip_row(source_id: str) -> dict[str, Any]:
    return {
        "clip": clip_key(source_id, 1), "source_id": source_id, "window": 1, "span": 0, "is_stored": True, "reason": "",
        "detail": "", "num_frames": 125, "start_s": 0.0, "has_audio": True, "crop_x_px": 700, "crop_y_px": 200,
        "crop_side_px": 512, "size_px": 256, "source_to_crop": np.eye(3),
    }  # fmt: skip


def _commit_feature(
    objects: ObjectStore, name: str, params: BaseModel, cut: str, keys: Mapping[str, str], members: Sequence[Member]
) -> str:
    from storage.snapshot import FEATURES_TABLE
    from tasks import features
    from tasks.shard_work import subject_groups
    from tasks.step_keys import feature_key

    extractor = features.discover()[name]
    needs = {need: keys[need] for need in extractor.REQUIRES}
    key, inputs = feature_key(name, params, cut, needs, subject_groups(members))
    with objects.stage(name, key, inputs) as staging:
        (staging.path / FEATURES_TABLE).write_bytes(_table_bytes((CLIP_KEY, *extractor.COLUMNS), len(members)))
        staging.commit(timing={"seconds": 1.0})
    return key


@cache
def _table_bytes(columns: tuple[Column, ...], num_rows: int) -> bytes:
    """A table of short random rows; every shard of this size gets the same one."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = ({column.name: _value(rng, column) for column in columns} for _ in range(num_rows))
        write_table(Path(folder) / "table.parquet", rows, columns)
        return (Path(folder) / "table.parquet").read_bytes()


def _value(rng: np.random.Generator, column: Column) -> Any:
    lengths = [_length(axis) for axis in column.shape]
    if column.dtype == "string":
        return np.full(lengths, "", dtype=object) if lengths else ""
    values = rng.uniform(0.7, 1.2, lengths) * (100 if column.name.endswith("_px") else 1)
    return values.astype(column.dtype) if column.shape else np.dtype(column.dtype).type(values)


def _length(axis: int | str) -> int:
    """Length of an axis; '2N' is twice as long as 'N'."""
    return axis if isinstance(axis, int) else _FRAMES * int(axis[0] if axis[0].isdigit() else 1)


if __name__ == "__main__":
    main()
