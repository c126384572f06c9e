"""Lineage: from a source to every model that saw it, and back; what gc has taken is said to be gone, not left out."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ConfigError, StoreCorrupt
from storage.keys import sha256_file, sha256_hex
from storage.records import as_json
from storage.runs import RunRecord
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from storage.takedowns import Takedown, add_takedown
from storage.weights import listed
from tasks.store.gc import find_garbage, remove_garbage
from tasks.store.lineage import lineage
from tasks.store.lineage.history import GoneSnapshot, UnknownRun
from tasks.store.lineage.of_snapshot import ParentSnapshot
from tasks.store.lineage.of_source import SourceClip, SourceLineage
from tests.run_records import finished_run
from tests.synthetic_store import build_store
from tests.tasks.store.test_takedown import Tree

# S000 and S001 are in 'train', S002 in 'val', S003 in 'test'. Snapshots 2 and 4 have the second takes, 1 and 3 do not.
FIRST = "S000/video/front/angry/level_1/001.mp4"
SECOND = "S000/video/front/contempt/level_1/002.mp4"
SECOND_OF_VAL = "S002/video/front/fear/level_1/002.mp4"
DLIB = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"


@dataclass
class Past:
    """Four snapshots and six runs.

    base (1), heard (2, from base), mouth (3, from heard), longer (3, continued from mouth), late (4), aside (1)
    """

    store: Path
    snapshots: list[Snapshot]
    runs: dict[str, RunRecord]

    def ids(self, *names: str) -> list[str]:
        return [self.runs[name].id for name in names]


def build(store: Path) -> Past:
    snapshots = [build_store(store, 4, takes, with_media=False, thresholds={}) for takes in (1, 2, 1, 2)]
    runs = {}
    runs["base"] = finished_run(snapshots[0], "base", weights={"dlib68": DLIB, "lost": "unpinned:" + "1" * 64})
    runs["heard"] = finished_run(snapshots[1], "heard", {"base": runs["base"]})
    runs["mouth"] = finished_run(snapshots[2], "mouth", {"heard": runs["heard"]})
    runs["longer"] = finished_run(snapshots[2], "mouth", continued_from=runs["mouth"], steps=20)
    runs["late"] = finished_run(snapshots[3], "base", steps=30)
    runs["aside"] = finished_run(snapshots[0], "base", steps=40)
    return Past(store, snapshots, runs)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """Read only."""
    return build(tmp_path_factory.mktemp("store"))


def row_of(snapshot: Snapshot, path: str) -> dict[str, Any]:
    return next(row for row in snapshot.source_table.to_pylist() if row["path"] == path)


def one_source(store: Path, name: str) -> SourceLineage:
    answer = lineage(store, name)
    assert answer.kind == "source"
    (source,) = answer.sources
    return source


# ---- source


def test_a_source_leads_to_the_snapshots_and_clips_that_hold_it(past: Past) -> None:
    source = one_source(past.store, SECOND)
    row = row_of(past.snapshots[1], SECOND)
    assert (source.sha256, source.source_ids) == (row["sha256"], (row["source_id"],))
    assert (source.paths, source.subjects, source.takedown) == ((SECOND,), ("S000",), None)
    assert [(line.number, line.state, line.num_clips, line.splits) for line in source.snapshots] == [
        (2, "done", 1, ("train",)),
        (4, "done", 1, ("train",)),
    ]
    assert [line.id for line in source.snapshots] == [past.snapshots[1].id, past.snapshots[3].id]
    assert all(line.shards == (row_of(past.snapshots[n - 1], SECOND)["shard_id"],) for n in (2, 4)
               for line in source.snapshots if line.number == n)  # fmt: skip
    assert (source.since, source.until) == (2, 4)
    clip = past.snapshots[1].clip("S000#contempt#level_1#002")
    assert source.clips == (SourceClip(clip.clip, "S000#contempt#level_1#002", "train", since=2, until=4),)


def test_a_source_leads_to_runs_directly_and_through_every_kind_of_parent(past: Past) -> None:
    """SECOND is not in snapshot 3, on which mouth and longer were trained, nor in 1, the one of base and aside."""
    runs = {line.run: line for line in one_source(past.store, SECOND).runs}
    assert list(runs) == past.ids("heard", "mouth", "longer", "late")
    assert [line.is_direct for line in runs.values()] == [True, False, False, True]
    assert [line.through for line in runs.values()] == [(), (*past.ids("heard"),), (*past.ids("mouth"),), ()]
    assert all(line.is_trained_on and line.splits == ("train",) for line in runs.values())
    heard = runs[past.runs["heard"].id]
    assert (heard.snapshot, heard.snapshot_id, heard.stage) == (2, past.snapshots[1].id, "heard")
    assert [found.sha256 for found in heard.checkpoints] == [past.runs["heard"].model().sha256]
    assert one_source(past.store, SECOND).unknown_runs == ()


def test_a_source_of_the_validation_split_was_seen_but_not_trained_on(past: Past) -> None:
    runs = one_source(past.store, SECOND_OF_VAL).runs
    assert [line.run for line in runs] == past.ids("heard", "mouth", "longer", "late")
    assert {line.is_trained_on for line in runs} == {False}
    assert {line.splits for line in runs} == {("val",)}


def test_a_source_that_was_never_kept_is_in_no_run(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, 4, 1, with_media=False, with_trouble=True, thresholds={})
    finished_run(snapshot, "base")
    faceless = one_source(tmp_path, "T002/video/front/angry/level_1/001.mp4")
    assert [(line.state, line.reason) for line in faceless.snapshots] == [("rejected", "NO_FACE")]
    assert (faceless.since, faceless.until, faceless.clips, faceless.runs) == (None, None, (), ())
    unreadable = one_source(tmp_path, "T003/video/front/sad/level_1/002.mp4")
    assert (unreadable.sha256, unreadable.source_ids) == ("", ())
    assert [line.state for line in unreadable.snapshots] == ["failed"]


def test_a_twin_is_the_same_source_under_another_name(tmp_path: Path) -> None:
    build_store(tmp_path, 4, 1, with_media=False, with_trouble=True, thresholds={})
    twin = "S000/video/front/angry/level_1/901.mp4"
    source = one_source(tmp_path, twin)
    assert source.paths == (FIRST, twin)
    assert source.snapshots[0].state == "done"
    assert len(source.clips) == 1
    assert source == one_source(tmp_path, FIRST)


# ---- snapshot


def test_a_snapshot_names_parents_sources_and_runs(past: Past) -> None:
    answer = lineage(past.store, "3")
    assert (answer.kind, answer.number, answer.id) == ("snapshot", 3, past.snapshots[2].id)
    assert (answer.is_gone, answer.is_latest, answer.dataset) == (False, False, "synthetic")
    assert answer.parents == (
        ParentSnapshot(2, past.snapshots[1].id, is_gone=False),
        ParentSnapshot(1, past.snapshots[0].id, is_gone=False),
    )
    assert [(line.run, line.is_direct, line.through) for line in answer.runs] == [
        (past.runs["mouth"].id, True, ()),
        (past.runs["longer"].id, True, (*past.ids("mouth"),)),
    ]
    assert (answer.gone, answer.unknown_runs) == ((), ())
    first = lineage(past.store, "1").runs
    assert [(line.run, line.is_direct) for line in first] == list(
        zip(past.ids("base", "heard", "mouth", "longer", "aside"), [True, False, False, False, True], strict=True)
    )


def test_sources_of_a_snapshot_stand_by_state(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, 4, 1, with_media=False, with_trouble=True, thresholds={})
    row = row_of(snapshot, FIRST)
    withdrawn = Takedown(sha256=row["sha256"], source_ids=(), path=FIRST, reason="r", taken_at="t")
    add_takedown(tmp_path, withdrawn)
    sources = lineage(tmp_path, "latest").sources
    assert {state: len(found) for state, found in sources.items()} == {
        "done": 8, "rejected": 3, "failed": 2, "duplicate_of": 1,
    }  # fmt: skip
    assert {found.reason for found in sources["rejected"]} == {"BAD_NAME", "EMPTY", "NO_FACE"}
    taken = [found.path for state in sources.values() for found in state if found.is_taken_down]
    assert taken == [FIRST, "S000/video/front/angry/level_1/901.mp4"]


# ---- run and checkpoint


def test_a_checkpoint_leads_back_to_the_first_run_and_all_its_data(past: Past) -> None:
    model = past.runs["longer"].model()
    answer = lineage(past.store, model.sha256)
    assert (answer.kind, answer.run.run, answer.checkpoint.file) == (
        "run",
        past.runs["longer"].id,
        model.file,
    )
    assert [(line.run, line.of, line.as_, line.snapshot) for line in answer.parents] == [
        (*past.ids("mouth", "longer"), "continued", 3),
        (*past.ids("heard", "mouth"), "heard", 2),
        (*past.ids("base", "heard"), "base", 1),
    ]
    assert answer.parents[1].loaded == past.runs["heard"].model().sha256
    assert [(data.number, data.runs) for data in answer.data] == [
        (3, (*past.ids("longer", "mouth"),)),
        (2, (*past.ids("heard"),)),
        (1, (*past.ids("base"),)),
    ]
    assert [line.number for line in answer.data[0].ancestors] == [2, 1]
    assert lineage(past.store, past.runs["mouth"].id).children == (*past.ids("longer"),)
    assert answer.children == ()


def test_sources_and_subjects_of_a_run_are_marked_with_their_split(past: Past) -> None:
    (_, held, _) = lineage(past.store, past.runs["longer"].id).data
    assert held.subjects == {"train": ("S000", "S001"), "val": ("S002",), "test": ("S003",)}
    assert [(source.subject, source.split) for source in held.sources] == [
        ("S000", "train"), ("S000", "train"), ("S001", "train"), ("S001", "train"), ("S002", "val"), ("S002", "val"),
        ("S003", "test"), ("S003", "test"),
    ]  # fmt: skip
    row = row_of(past.snapshots[1], SECOND)
    found = next(source for source in held.sources if source.path == SECOND)
    assert (found.source_id, found.sha256, found.num_clips) == (row["source_id"], row["sha256"], 1)


def test_both_directions_agree(past: Past) -> None:
    """A source is in the training data of exactly those runs that its own lineage names."""
    paths = {row["path"] for snapshot in past.snapshots for row in snapshot.source_table.to_pylist()}
    backward: dict[str, set[str]] = {path: set() for path in paths}
    for run in past.runs.values():
        for held in lineage(past.store, run.id).data:
            for source in held.sources:
                if source.split == "train":
                    backward[source.path].add(run.id)
    forward = {path: {line.run for line in one_source(past.store, path).runs if line.is_trained_on} for path in paths}
    assert forward == backward
    assert set(map(len, forward.values())) == {0, 4, 6}


def test_weights_come_with_hashes_and_licences_also_those_that_made_the_data(tmp_path: Path) -> None:
    past = build(tmp_path)
    manifest = past.snapshots[1].objects.path(past.snapshots[1].body.shards[0].cut.key) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["key_inputs"]["weights"] = {"face_landmarker": "unpinned:" + "2" * 64}
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(content))
    found = {weight.name: weight for weight in lineage(tmp_path, past.runs["heard"].id).weights}
    assert set(found) == {"dlib68", "face_landmarker", "lost"}
    assert (found["dlib68"].sha256, found["dlib68"].is_noncommercial) == (DLIB, True)
    assert found["dlib68"].licence == listed()["dlib68"].licence
    assert found["dlib68"].used_by == (f"run {past.runs['base'].id}",)
    assert (found["face_landmarker"].sha256, found["face_landmarker"].used_by) == (
        "2" * 64,
        ("snapshot 2", "snapshot 1"),
    )
    assert (found["lost"].sha256, found["lost"].licence, found["lost"].is_noncommercial) == (
        "1" * 64,
        "",
        None,
    )


# ---- what is gone


def collect_all_but_the_latest(past: Past, *unpinned: str) -> None:
    for name in unpinned:
        (past.store / "pins" / past.runs[name].id).unlink()
    remove_garbage(past.store, find_garbage(past.store, keep=1, grace_hours=0))


def test_collected_snapshots_are_named_and_what_they_knew_is_unknown(tmp_path: Path) -> None:
    past = build(tmp_path)
    collect_all_but_the_latest(past, "heard", "mouth", "longer")
    gone = tuple(GoneSnapshot(number, past.snapshots[number - 1].id) for number in (2, 3))
    answer = lineage(tmp_path, SECOND)
    assert answer.gone == gone
    (source,) = answer.sources
    assert [line.number for line in source.snapshots] == [4]
    assert [line.run for line in source.runs] == past.ids("late")
    assert source.unknown_runs == (
        UnknownRun(past.runs["heard"].id, "its snapshot 2 is gone"),
        UnknownRun(past.runs["mouth"].id, "its snapshot 3 is gone"),
        UnknownRun(past.runs["longer"].id, "its snapshot 3 is gone"),
    )
    # FIRST is known to have reached them all through base, whatever the lost snapshots held.
    assert one_source(tmp_path, FIRST).unknown_runs == ()
    third = lineage(tmp_path, "3")
    assert (third.is_gone, third.id, third.sources) == (True, past.snapshots[2].id, {})
    assert [line.is_gone for line in third.parents] == [True, False]
    assert [line.run for line in third.runs] == past.ids("mouth", "longer")
    assert lineage(tmp_path, past.snapshots[2].id[:8]).number == 3
    data = lineage(tmp_path, past.runs["longer"].id).data
    assert [(held.number, held.is_gone, bool(held.sources)) for held in data] == [
        (3, True, False),
        (2, True, False),
        (1, False, True),
    ]


def test_an_id_that_nothing_remembers_is_empty(tmp_path: Path) -> None:
    for takes in (1, 2, 3):
        build_store(tmp_path, 4, takes, with_media=False)
    second = Snapshot.open(tmp_path, 2).id
    remove_garbage(tmp_path, find_garbage(tmp_path, keep=1, grace_hours=0))
    assert lineage(tmp_path, "latest").gone == (GoneSnapshot(1, ""), GoneSnapshot(2, second))


def test_a_run_whose_parents_record_is_not_here_is_unknown(tmp_path: Path) -> None:
    past = build(tmp_path)
    shutil.rmtree(run_folder(tmp_path, past.runs["heard"].id))
    source = one_source(tmp_path, SECOND)
    assert [line.run for line in source.runs] == past.ids("late")
    assert source.unknown_runs == (
        UnknownRun(past.runs["mouth"].id, f"its parent {past.runs['heard'].id} is not recorded here"),
        UnknownRun(past.runs["longer"].id, "one of its parents is unknown"),
    )
    parents = lineage(tmp_path, past.runs["longer"].id).parents
    assert [(line.run, line.is_gone) for line in parents] == [
        (past.runs["mouth"].id, False),
        (past.runs["heard"].id, True),
    ]


def test_a_store_without_a_snapshot_still_tells_what_its_runs_were_made_of(tmp_path: Path) -> None:
    past = build(tmp_path)
    shutil.rmtree(tmp_path / "snapshots")
    answer = lineage(tmp_path, past.runs["mouth"].id)
    assert [line.number for line in answer.gone] == [1, 2, 3, 4]
    assert [held.is_gone for held in answer.data] == [True, True, True]


def test_runs_that_name_each_other_end(tmp_path: Path) -> None:
    """No honest store holds a circle; a damaged one must not hang the answer."""
    past = build(tmp_path)
    file = run_folder(tmp_path, past.runs["base"].id) / "run.json"
    content = json.loads(file.read_text())
    content["key"]["parents"] = {"x": {"run": past.runs["longer"].id, "sha256": past.runs["longer"].model().sha256}}
    file.write_text(json.dumps(content))
    assert len(lineage(tmp_path, past.runs["mouth"].id).parents) == 4
    assert len(one_source(tmp_path, SECOND).runs) == 5


# ---- names

Name = Callable[[Past], str]
NAMES: list[tuple[str, Name]] = [
    ("source", lambda past: SECOND),
    ("source", lambda past: "front/contempt/level_1/002.mp4"),
    ("source", lambda past: "S000#contempt#level_1#002"),
    ("source", lambda past: row_of(past.snapshots[1], SECOND)["source_id"]),
    ("source", lambda past: row_of(past.snapshots[1], SECOND)["source_id"][:8]),
    ("source", lambda past: row_of(past.snapshots[1], SECOND)["sha256"][:8]),
    ("snapshot", lambda past: "2"),
    ("snapshot", lambda past: "000002"),
    ("snapshot", lambda past: past.snapshots[1].id),
    ("snapshot", lambda past: past.snapshots[1].id[:8]),
    ("run", lambda past: past.runs["heard"].id),
    ("run", lambda past: past.runs["heard"].id[:-4]),
    ("run", lambda past: f"runs/{past.runs['heard'].id}/"),
    ("run", lambda past: f"{past.runs['heard'].id}/checkpoints/model-00000010.safetensors"),
    ("run", lambda past: str(run_folder(past.store, past.runs["heard"].id) / past.runs["heard"].model().file)),
    ("run", lambda past: past.runs["heard"].model().sha256[:8]),
]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_way_to_name_a_thing_means_the_same(past: Past, kind: str, name: Name) -> None:
    answer = lineage(past.store, name(past))
    meant = {"source": SECOND, "snapshot": 2, "run": past.runs["heard"].id}
    found = {
        "source": lambda: answer.sources[0].paths[0],
        "snapshot": lambda: answer.number,
        "run": lambda: answer.run.run,
    }
    assert (answer.kind, found[kind]()) == (kind, meant[kind])


def test_a_copied_file_is_known_by_its_content(past: Past, tmp_path: Path) -> None:
    copy = tmp_path / "sent to a customer.bin"
    shutil.copy(run_folder(past.store, past.runs["late"].id) / past.runs["late"].model().file, copy)
    answer = lineage(past.store, str(copy))
    assert (answer.run.run, answer.checkpoint.sha256) == (past.runs["late"].id, sha256_file(copy)[0])


@pytest.mark.parametrize(
    "name", ["", "nobody", "2.mp4", "ont/angry", "\x00", "x" * 5000, "5", "abcdef", "\udce9.mp4", "/", "runs/"]
)
def test_an_unknown_name_is_refused_with_what_there_is(past: Past, name: str) -> None:
    with pytest.raises(ConfigError, match=r"there are snapshots 1, 2, 3, 4 and runs edtalk-base-"):
        lineage(past.store, name)


def test_an_ambiguous_name_is_refused_with_all_that_it_can_mean(past: Past) -> None:
    with pytest.raises(ConfigError, match="can mean") as caught:
        lineage(past.store, "001.mp4")
    assert all(f"S00{number}/video" in str(caught.value) for number in range(4))
    with pytest.raises(ConfigError, match="can mean") as caught:
        lineage(past.store, "edtalk-base-")
    assert all(run_id in str(caught.value) for run_id in past.ids("base", "late", "aside"))


def test_a_whole_name_counts_before_parts_of_others(tmp_path: Path) -> None:
    tree = Tree(tmp_path).fill()
    tree.put("talks/001.mp4.mp4")
    tree.refresh()
    assert one_source(tree.store, "001.mp4").paths == ("talks/001.mp4.mp4",)


def test_a_path_that_held_two_files_answers_for_both(tmp_path: Path) -> None:
    build_store(tmp_path, 4, 1, with_media=False, seed=0)
    build_store(tmp_path, 4, 1, with_media=False, seed=1)
    answer = lineage(tmp_path, FIRST)
    assert [source.sha256 for source in answer.sources] == [sha256_hex(f"{FIRST} {n}".encode()) for n in (0, 1)]
    assert [(source.since, source.until) for source in answer.sources] == [(1, 1), (2, 2)]


def test_names_that_are_no_plain_text_are_found_as_they_are_and_as_they_are_listed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.put(b"talks/caf\xe9.mp4")
    tree.refresh()
    assert one_source(tree.store, "talks/caf\udce9.mp4") == one_source(tree.store, "talks/caf\\xe9.mp4")


def test_a_folder_that_is_no_store_and_a_damaged_record_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no talkset store"):
        lineage(tmp_path, "latest")
    past = build(tmp_path / "store")
    (run_folder(past.store, past.runs["late"].id) / "run.json").write_text("{")
    with pytest.raises(StoreCorrupt, match=past.runs["late"].id):
        lineage(past.store, SECOND)


def test_reading_writes_nothing(past: Past) -> None:
    before = {path: path.stat().st_mtime_ns for path in past.store.rglob("*")}
    for name in (SECOND, "2", past.runs["longer"].id):
        json.dumps(as_json(lineage(past.store, name)), allow_nan=False)
    assert {path: path.stat().st_mtime_ns for path in past.store.rglob("*")} == before
