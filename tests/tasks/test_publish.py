"""Publish: accounts that do not close publish nothing; thresholds, names and splits are decided here."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage import snapshot as snapshots
from storage.catalog import SplitRule, Threshold
from storage.errors import AccountingError, OutOfSpace, Reason
from storage.objects import ObjectStore
from storage.records import Shard, ShardResults
from storage.snapshot import Snapshot
from tasks import publish
from tasks.inventory import Inventory
from tasks.plan import Plan, make_plan
from tasks.publish import RefreshResults, publish_snapshot, split_of
from tasks.store.verify import verify_snapshot
from tests.storage import processes
from tests.synthetic_store import (
    Take,
    build_store,
    commit_cut,
    commit_features,
    hopeless_sources,
    regular_takes,
    synthetic_dataset,
    troubled_takes,
)


class Scene:
    """What a refresh hands to publish: three subjects with two takes each, and every kind of trouble."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.dataset = synthetic_dataset()
        self.takes = regular_takes(3, 2, (25, 40), 0) + troubled_takes(0)
        hopeless, self.failed = hopeless_sources(self.takes[0].source, 0)
        ordered = sorted((*(take.source for take in self.takes), *hopeless), key=lambda source: source.path)
        self.inventory = Inventory(tuple(ordered), 7, 3)
        self.plan = make_plan(ordered, [], [], self.dataset.shard_minutes)
        by_id = {take.source.source_id: take for take in self.takes}
        self.results = [result for shard in self.plan.shards if (result := self._commit(shard, by_id))]

    def _commit(self, planned: Shard, by_id: dict[str, Take]) -> ShardResults | None:
        live = tuple(source_id for source_id in planned.source_ids if source_id in by_id)
        if not live:
            return None
        shard, objects = Shard.of(live, planned.minutes), ObjectStore(self.store)
        cut = commit_cut(objects, shard, [by_id[source_id] for source_id in live], 0, False)
        members = tuple(by_id[source_id].source.member() for source_id in live)
        return ShardResults(shard, members, cut, commit_features(objects, shard, cut, False))

    def publish(self, **changed: Any) -> tuple[Snapshot, bool]:
        given = {"dataset": self.dataset, "store": self.store, "code_version": "0"}
        given |= {name: changed.pop(name) for name in given.keys() & changed.keys()}
        found = RefreshResults(self.inventory, self.plan, self.results, self.failed)
        return publish_snapshot(found=replace(found, **changed), **given)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def assert_refused(scene: Scene, match: str, **changed: Any) -> None:
    with pytest.raises(AccountingError, match=match):
        scene.publish(**changed)
    assert snapshots.latest(scene.store) is None


# ---- accounts


def test_every_source_and_clip_ends_in_exactly_one_state(scene: Scene) -> None:
    snapshot, is_new = scene.publish()
    assert is_new
    counts = snapshot.body.counts
    assert counts["sources"] == {"total": 16, "done": 10, "rejected": 3, "failed": 2, "duplicate_of": 1}
    assert sum(counts["rejected"].values()) == 3
    clips = counts["clips"]
    assert clips["expected"] == clips["kept"] + clips["dropped"] == len(snapshot.rows(kept=False))
    assert sum(counts["dropped"].values()) == clips["dropped"] > 0
    assert counts["frames_kept"] == sum(row["num_frames"] for row in snapshot.rows())
    rows = snapshot.source_table.to_pylist()
    assert sum(row["num_expected"] for row in rows) == clips["expected"]
    assert sum(row["num_kept"] for row in rows) == clips["kept"]
    assert [row["path"] for row in rows if row["state"] == "duplicate_of"] == ["S000/video/front/angry/level_1/901.mp4"]


def test_a_lost_source_stops_the_press(scene: Scene) -> None:
    assert_refused(scene, "in no state", shards=scene.results[1:])


def test_a_failed_source_without_an_error_stops_the_press(scene: Scene) -> None:
    assert_refused(scene, "in no state", failed={})


def test_a_source_in_two_shards_stops_the_press(scene: Scene) -> None:
    assert_refused(scene, "two shards", shards=[*scene.results, scene.results[0]])


def test_a_clip_dropped_without_a_reason_stops_the_press(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read = publish.read_table

    def forget(path: Path, *args: Any) -> Any:
        table = read(path, *args)
        if path.name != "clips.parquet":
            return table
        return table.set_column(table.column_names.index("reason"), "reason", [[""] * len(table)])

    monkeypatch.setattr(publish, "read_table", forget)
    assert_refused(scene, "without a reason")


def test_missing_feature_rows_stop_the_press(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read = publish.read_numbers
    monkeypatch.setattr(publish, "read_numbers", lambda path: read(path).slice(1))
    assert_refused(scene, "rows of")


def test_a_shard_without_one_of_the_features_stops_the_press(scene: Scene) -> None:
    first = scene.results[0]
    poor = replace(first, features={name: ref for name, ref in first.features.items() if name != "sync"})
    assert_refused(scene, "different features", shards=[poor, *scene.results[1:]])


def test_a_done_source_without_clips_stops_the_press(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_clip_rows", lambda *args: [])
    assert_refused(scene, "store no clip")


# ---- thresholds


def test_thresholds_judge_at_publish_and_leave_scores_and_objects_alone(tmp_path: Path) -> None:
    loose = build_store(tmp_path, with_media=False, thresholds={})
    limit = sorted(row["quality_face_size_px"] for row in loose.rows(kept=False))[2]
    strict = build_store(tmp_path, with_media=False, thresholds={"quality_face_size_px": Threshold(min=limit)})
    assert (strict.body.number, strict.body.parent) == (2, loose.id)
    assert [shard.model_dump() for shard in strict.body.shards] == [shard.model_dump() for shard in loose.body.shards]
    scores = ["name", "quality_face_size_px", "sync_confidence"]
    assert strict.clip_table.select(scores).equals(loose.clip_table.select(scores))
    dropped = [row for row in strict.rows(kept=False) if not row["is_kept"]]
    assert len(dropped) == 2
    assert {row["reason"] for row in dropped} == {Reason.BELOW_THRESHOLD.value}
    assert all("quality_face_size_px is" in row["detail"] and f"min {limit:g}" in row["detail"] for row in dropped)
    again = build_store(tmp_path, with_media=False, thresholds={})
    assert again.body.number == 3
    assert again.body.tables == loose.body.tables
    assert len(list(ObjectStore(tmp_path).keys())) == len(
        {ref.key for s in (loose, strict) for ref in s.body.objects()}
    )


@pytest.mark.parametrize(
    ("value", "bound", "is_kept"),
    [
        (0.8, Threshold(min=0.8), True), (0.8, Threshold(max=0.8), True), (0.79, Threshold(min=0.8), False),
        (0.81, Threshold(max=0.8), False), (float("nan"), Threshold(min=0.8), False),
        (float("nan"), Threshold(max=0.8), False), (float("nan"), Threshold(), True),
    ],
)  # fmt: skip
def test_bounds_are_inclusive_and_an_unknown_score_fails_them(value: float, bound: Threshold, is_kept: bool) -> None:
    dataset = synthetic_dataset(thresholds={"quality_valid_share": bound})
    reason, detail = publish._judge({"quality_valid_share": value}, dataset)
    assert (not reason, not detail) == (is_kept, is_kept)
    assert reason in ("", Reason.FACE_LEFT_FRAME.value)


# ---- snapshots of what did not change


def test_unchanged_content_is_the_same_snapshot(scene: Scene) -> None:
    first, _ = scene.publish()
    again, is_new = scene.publish(code_version="another, giving the same bytes")
    assert (again.id, is_new) == (first.id, False)
    assert snapshots.snapshot_numbers(scene.store) == [1]
    changed, is_new = scene.publish(skipped_features={"blendshapes": "no model file"})
    assert (changed.body.number, changed.body.parent, is_new) == (2, first.id, True)


def test_id_knows_no_path_and_no_time(tmp_path: Path) -> None:
    first = build_store(tmp_path / "a", with_media=False, with_trouble=True)
    time.sleep(1.1)
    second = build_store(tmp_path / "deeper" / "b", with_media=False, with_trouble=True)
    assert first.created_at != second.created_at
    assert first.id == second.id
    assert str(tmp_path) not in (tmp_path / "a" / "snapshots" / "000001.json").read_text()


# ---- names


def test_equal_names_become_unique_and_stay_what_they_are(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    twin_names = [replace(source, name="same") if source.is_usable else source for source in scene.inventory.sources]
    by_id = {source.source_id: source for source in reversed(twin_names) if source.is_usable}
    plan = Plan(scene.plan.shards, by_id, scene.plan.duplicates)
    snapshot, _ = scene.publish(inventory=Inventory(tuple(twin_names), 7, 3), plan=plan)
    names = [row["name"] for row in snapshot.rows(kept=False)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("same") for name in names)
    assert "same#2" in names, "a name that only one clip has stays as it is"
    assert names == sorted(names)


# ---- splits


def test_splits_never_share_a_subject_and_listed_ones_are_obeyed(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, num_subjects=12, clips_per_subject=3, with_media=False, thresholds={})
    homes: dict[str, set[str]] = {}
    for row in snapshot.rows(kept=False):
        homes.setdefault(row["subject"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in homes.values())
    assert homes["S011"] == {"test"}
    assert homes["S010"] == {"val"}


def test_mead_test_subjects_are_in_test() -> None:
    rule = SplitRule(test=["M003", "M030", "W009", "W015"], val_share=0.05)
    assert {split_of(subject, rule) for subject in rule.test} == {"test"}
    rest = [split_of(f"M{number:03d}", rule) for number in range(100, 1100)]
    assert set(rest) == {"train", "val"}
    assert 20 < rest.count("val") < 90


def test_a_subject_keeps_its_split_whoever_else_comes_and_shares_only_grow() -> None:
    subjects = [f"W{number:03d}" for number in range(500)]
    narrow = {name: split_of(name, SplitRule(test_share=0.1, val_share=0.1)) for name in subjects}
    wide = {name: split_of(name, SplitRule(test_share=0.2, val_share=0.1)) for name in subjects}
    assert 30 < sum(split == "test" for split in narrow.values()) < 75
    assert all(wide[name] == "test" for name, split in narrow.items() if split == "test")


def test_twins_are_never_on_two_sides(scene: Scene) -> None:
    """The same bytes under a test subject and a train subject: one clip, one split."""
    source = scene.takes[0].source
    twin = replace(source, path="zz/S002.mp4", path_hex=b"zz/S002.mp4".hex(), subject="S002", name="twin")
    inventory = Inventory((*scene.inventory.sources, twin), 7, 3)
    plan = make_plan(inventory.sources, [], [], scene.dataset.shard_minutes)
    snapshot, _ = scene.publish(inventory=inventory, plan=plan)
    rows = [row for row in snapshot.rows(kept=False) if row["source_id"] == source.source_id]
    assert [(row["subject"], row["split"]) for row in rows] == [("S000", "train")]
    state = next(row for row in snapshot.source_table.to_pylist() if row["path"] == "zz/S002.mp4")
    assert (state["state"], state["duplicate_of"]) == ("duplicate_of", source.sha256)


# ---- F-00: every single operation fails once


class Fault:
    """Makes the n-th durable operation of the file layer fail."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, strike: Callable[[], None]) -> None:
        self.number, self.strike, self.count = number, strike, 0
        for name in ("write", "fsync", "rename", "link", "mkdir"):
            self._wrap(patch, name)

    def _wrap(self, patch: pytest.MonkeyPatch, name: str) -> None:
        inner = getattr(os, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.number:
                self.strike()
            return inner(*args, **options)

        patch.setattr(os, name, counted)


def _full() -> None:
    raise OSError(28, "No space left on device")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _build(folder: Path) -> Snapshot:
    ObjectStore(folder).sweep_staging()
    return build_store(folder, num_subjects=3, clips_per_subject=1, with_media=False, shard_minutes=100)


def _points() -> Iterator[int]:
    """All of the first operations, then every third: the later objects are committed by the same few functions."""
    yield from range(1, 40)
    yield from range(40, 1000, 3)


def test_disk_full_at_any_operation_leaves_a_store_that_a_rerun_completes(tmp_path: Path) -> None:
    wanted = _build(tmp_path / "clean").id
    for number in _points():
        folder = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, number, _full)
            try:
                _build(folder)
            except OutOfSpace as error:
                assert str(tmp_path) in str(error)
        _assert_completes(folder, wanted)
        if fault.count < number:
            return
    raise AssertionError("never ran through")


def test_kill_9_at_any_operation_leaves_a_store_that_a_rerun_completes(tmp_path: Path) -> None:
    wanted = _build(tmp_path / "clean").id
    for number in _points():
        folder = tmp_path / str(number)

        def run(folder: Path = folder, number: int = number) -> None:
            with pytest.MonkeyPatch.context() as patch:
                Fault(patch, number, _die)
                _build(folder)

        code = processes.run(run)
        assert code in (0, -signal.SIGKILL)
        _assert_completes(folder, wanted)
        if code == 0:
            return
    raise AssertionError("never ran through")


def _assert_completes(folder: Path, wanted: str) -> None:
    for key in ObjectStore(folder).keys():
        ObjectStore(folder).verify(key)
    snapshot = _build(folder)
    assert (snapshot.id, snapshot.body.number) == (wanted, 1)
    assert [
        problem for problem in verify_snapshot(snapshot).problems if "tracks" not in problem and "frames" not in problem
    ] == []
    assert list((folder / "staging").glob("*")) == []
