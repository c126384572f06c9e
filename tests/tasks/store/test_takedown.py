"""Takedown: a withdrawn source is told of, stays out whatever its file is called, and nothing new contains it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import snapshot as snapshots
from storage.catalog import AudioRule
from storage.cut_tables import SOURCES_FILE
from storage.errors import ConfigError
from storage.hash_cache import HashCache
from storage.keys import sha256_hex
from storage.lock import writer_lock
from storage.objects import ObjectStore
from storage.records import ShardResults, Source, as_json
from storage.snapshot import Snapshot, bind_store
from storage.tables import read_table
from storage.takedowns import Takedown, load_takedowns
from tasks.inventory import take_inventory
from tasks.plan import make_plan
from tasks.publish import RefreshResults, publish_snapshot
from tasks.store.gc import find_garbage, remove_garbage
from tasks.store.lineage import lineage
from tasks.store.takedown import TakedownAnswer, TakedownList, list_takedowns, put_back, take_down
from tests.run_records import finished_run
from tests.synthetic_store import Take, commit_cut, commit_features, synthetic_dataset

FIRST = "S000/video/front/angry/level_1/001.mp4"
PATHS = [f"S00{subject}/video/front/angry/level_1/00{take}.mp4" for subject in range(4) for take in (1, 2)]


class Tree:
    """A folder of files and its store. Inventory, plan and publish are the real ones; the cut draws faces.

    A shard that the plan keeps keeps its objects, also those of sources whose files are gone, as in a real refresh.
    """

    def __init__(self, folder: Path, shard_minutes: float = 100, with_media: bool = False) -> None:
        self.root, self.store, self.with_media = folder / "raw", folder / "store", with_media
        self.dataset = synthetic_dataset(4, {}, shard_minutes).model_copy(update={"root": self.root})
        self.takes: dict[str, Take] = {}

    def put(self, relative: str | bytes, data: bytes | None = None) -> Path:
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.root), os.fsencode(relative))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(relative) if data is None else data)
        return path

    def fill(self) -> "Tree":
        for path in PATHS:
            self.put(path)
        return self

    def refresh(self) -> Snapshot:
        bind_store(self.store, self.dataset.name)
        cache = HashCache(self.store / "state" / "files.json", lambda path: 1.0)
        inventory = take_inventory(self.dataset, cache, load_takedowns(self.store))
        parent, objects = snapshots.latest(self.store), ObjectStore(self.store)
        shards = [entry.shard() for entry in parent.body.shards] if parent else []
        minutes = self.dataset.shard_minutes
        plan = make_plan(inventory.sources, shards, [s.shard_id for s in shards], minutes, inventory.taken_down)
        self.takes = {source.source_id: Take(source, 10) for source in plan.by_id.values()} | self.takes
        results = []
        for shard in plan.shards:
            takes = [self.takes[source_id] for source_id in shard.source_ids]
            cut = commit_cut(objects, shard, takes, 0, self.with_media)
            members = tuple(take.source.member() for take in takes)
            results.append(ShardResults(shard, members, cut, commit_features(objects, shard, cut, self.with_media)))
        return publish_snapshot(self.dataset, self.store, RefreshResults(inventory, plan, results), "0")[0]

    def take_down(self, name: str = FIRST) -> TakedownAnswer:
        return take_down(self.store, name, "consent withdrawn")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path).fill()


def rows_of(snapshot: Snapshot, sha256: str) -> list[dict[str, Any]]:
    return [row for row in snapshot.source_table.to_pylist() if row["sha256"] == sha256]


def sha_of(path: str) -> str:
    return sha256_hex(path.encode())


def id_of(path: str) -> str:
    return Source(path, "", "", "", "", {}, sha256=sha_of(path)).source_id


def holders(store: Path, source_id: str) -> list[str]:
    """Keys of all cuts in the store that physically hold the source."""
    objects = ObjectStore(store)
    cuts = [key for key in objects.keys() if objects.manifest(key).step == "cut"]
    return [key for key in cuts if source_id in read_table(objects.path(key) / SOURCES_FILE)["source_id"].to_pylist()]


def assert_out(snapshot: Snapshot, path: str = FIRST) -> None:
    """No clip of it, no shard with it, and every file of its content is accounted for as taken down."""
    states = {(row["state"], row["reason"], row["detail"]) for row in rows_of(snapshot, sha_of(path))}
    assert states <= {("rejected", "TAKEN_DOWN", "taken down: consent withdrawn")}
    assert id_of(path) not in [row["source_id"] for row in snapshot.rows(kept=False)]
    members = [member.source_id for shard in snapshot.body.shards for member in shard.members]
    assert id_of(path) not in members
    cuts = {shard.cut.key for shard in snapshot.body.shards}
    assert not cuts & set(holders(snapshot.store, id_of(path)))


# ---- the next snapshot


def test_a_taken_down_source_is_told_of_and_is_in_nothing(tmp_path: Path) -> None:
    tree = Tree(tmp_path, with_media=True).fill()
    before = tree.refresh()
    clip = next(row["clip"] for row in before.rows() if row["source_id"] == id_of(FIRST))
    assert before.frames(before.body.shards[0]).num_frames(clip) == 10
    tree.take_down()
    after = tree.refresh()
    assert (after.body.number, after.body.parent) == (2, before.id)
    assert_out(after)
    assert len(rows_of(after, sha_of(FIRST))) == 1
    assert after.body.counts["sources"] == {"total": 8, "done": 7, "rejected": 1, "failed": 0, "duplicate_of": 0}
    assert after.body.counts["rejected"] == {"TAKEN_DOWN": 1}
    assert {row["clip"] for row in before.rows()} - {row["clip"] for row in after.rows()} == {clip}
    stored = [name for shard in after.body.shards for name in after.frames(shard).clips()]
    assert sorted(stored) == sorted(row["clip"] for row in after.rows())


def test_twins_renames_and_returns_stay_out(tree: Tree) -> None:
    tree.put("S000/video/front/angry/level_1/900.mp4", FIRST.encode())
    tree.refresh()
    tree.take_down()
    twins = tree.refresh()
    assert_out(twins)
    assert [row["path"] for row in rows_of(twins, sha_of(FIRST))] == [FIRST, FIRST.replace("001", "900")]
    assert twins.body.counts["sources"]["duplicate_of"] == 0

    os.rename(tree.root / FIRST, tree.root / FIRST.replace("001", "777"))
    (tree.root / FIRST.replace("001", "900")).unlink()
    renamed = tree.refresh()
    assert_out(renamed)
    assert [row["path"] for row in rows_of(renamed, sha_of(FIRST))] == [FIRST.replace("001", "777")]

    (tree.root / FIRST.replace("001", "777")).unlink()
    deleted = tree.refresh()
    assert_out(deleted)
    assert rows_of(deleted, sha_of(FIRST)) == []
    tree.put("talks/back.mp4", FIRST.encode())
    back = tree.refresh()
    assert_out(back)
    assert [row["path"] for row in rows_of(back, sha_of(FIRST))] == ["talks/back.mp4"]


def test_another_file_of_the_same_name_is_another_source(tree: Tree) -> None:
    tree.refresh()
    tree.take_down()
    tree.put(FIRST, b"recorded again, with consent")
    states = {row["path"]: row["state"] for row in tree.refresh().source_table.to_pylist()}
    assert states[FIRST] == "done"


def test_a_shard_is_rewritten_for_one_source_and_others_stay(tmp_path: Path) -> None:
    tree = Tree(tmp_path, shard_minutes=0.06).fill()
    before = tree.refresh()
    tree.take_down()
    after = tree.refresh()
    old = {shard.shard_id: shard for shard in before.body.shards}
    new = {shard.shard_id: shard for shard in after.body.shards}
    assert len(old) > 2
    with_it = {shard_id for shard_id, shard in old.items() if id_of(FIRST) in [m.source_id for m in shard.members]}
    assert len(with_it) == 1
    assert set(old) - set(new) == with_it
    assert all(new[shard_id] == old[shard_id] for shard_id in set(old) - with_it)


def test_a_source_whose_file_is_long_gone_leaves_the_shard_that_outlived_it(tree: Tree) -> None:
    first = tree.refresh()
    (tree.root / FIRST).unlink()
    without = tree.refresh()
    assert rows_of(without, sha_of(FIRST)) == []
    assert without.body.shards == first.body.shards, "the shard outlives the file, so its frames are still there"
    answer = tree.take_down()
    assert [(line.number, line.state) for line in answer.snapshots] == [(1, "done"), (2, "gone")]
    assert [line.number for line in answer.holds.snapshots] == [1, 2]
    after = tree.refresh()
    assert after.body.number == 3
    assert_out(after)
    assert len(after.rows()) == len(PATHS) - 1


@pytest.mark.parametrize("is_name_kept", [False, True])
def test_a_source_that_no_table_knows_is_taken_down_by_its_id_or_its_file(
    tree: Tree, tmp_path: Path, is_name_kept: bool
) -> None:
    tree.refresh()
    (tree.root / FIRST).rename(tmp_path / "kept elsewhere.mp4")
    tree.refresh()
    remove_garbage(tree.store, find_garbage(tree.store, keep=1, grace_hours=0))
    with pytest.raises(ConfigError, match="no source is called"):
        tree.take_down()
    answer = tree.take_down(str(tmp_path / "kept elsewhere.mp4") if is_name_kept else id_of(FIRST)[:8])
    assert answer.takedown.source_ids == (id_of(FIRST),)
    assert answer.takedown.sha256 == (sha_of(FIRST) if is_name_kept else "")
    assert [line.state for line in answer.snapshots] == ["gone"]
    assert_out(tree.refresh())
    tree.put("talks/back.mp4", FIRST.encode())
    assert_out(tree.refresh())


@pytest.mark.parametrize("is_file", [False, True])
def test_a_file_that_was_never_refreshed_can_be_taken_down_in_advance(tree: Tree, is_file: bool) -> None:
    tree.refresh()
    path = tree.put("talks/new.mp4")
    answer = tree.take_down(str(path) if is_file else sha_of("talks/new.mp4"))
    assert (answer.is_new, answer.snapshots, answer.runs, answer.holds.snapshots) == (True, (), (), ())
    after = tree.refresh()
    assert_out(after, "talks/new.mp4")
    assert len(rows_of(after, sha_of("talks/new.mp4"))) == 1


def test_all_sources_can_be_taken_down(tree: Tree) -> None:
    tree.refresh()
    for path in PATHS:
        tree.take_down(path)
    last = tree.refresh()
    assert (last.body.shards, last.rows(kept=False)) == ((), [])
    assert last.body.counts["rejected"] == {"TAKEN_DOWN": 8}


def test_putting_back_restores_the_data_and_says_so(tree: Tree) -> None:
    before = tree.refresh()
    tree.take_down()
    tree.refresh()
    assert list_takedowns(tree.store).takedowns[0].is_in_latest is False
    answer = put_back(tree.store, FIRST)
    assert answer.put_back.sha256 == sha_of(FIRST)
    assert list_takedowns(tree.store) == TakedownList(())
    after = tree.refresh()
    labels = ("name", "clip", "source_id", "split", "is_kept", "num_frames")
    assert after.clip_table.select(labels).equals(before.clip_table.select(labels))
    assert after.body.counts == before.body.counts
    tree.take_down()
    assert_out(tree.refresh())


# ---- what it answers


def test_it_names_snapshots_runs_and_what_still_holds_the_bytes_until_gc_has_run(tree: Tree) -> None:
    first = tree.refresh()
    base = finished_run(first, "base")
    (tree.root / PATHS[1]).unlink()
    second = tree.refresh()
    heard = finished_run(second, "heard", {"base": base})
    (tree.store / "reports" / "000001").mkdir(parents=True)
    (tree.store / "reports" / "000009").mkdir(parents=True)
    answer = tree.take_down()
    assert answer.takedown == Takedown(
        sha256=sha_of(FIRST), source_ids=(id_of(FIRST),), path=FIRST, reason="consent withdrawn",
        taken_at=answer.takedown.taken_at,
    )  # fmt: skip
    assert (answer.is_new, answer.since, answer.until, answer.gone) == (True, 1, 2, ())
    assert [(line.run, line.is_direct) for line in answer.runs] == [(base.id, True), (heard.id, True)]
    holds = answer.holds
    assert [(line.number, line.pinned_by, line.is_latest) for line in holds.snapshots] == [
        (1, (base.id,), False),
        (2, (heard.id,), True),
    ]
    (shard,) = first.body.shards
    refs = [shard.cut, *shard.features.values()]
    assert (holds.num_objects, holds.num_bytes) == (len(refs), sum(ref.num_bytes for ref in refs))
    assert (holds.orphans, holds.reports) == ((), ("reports/000001",))
    text = "\n".join(answer.next)
    for words in ("talkset refresh synthetic", "gc --keep 1 --grace-hours 0", f"pins/{base.id}", "reports/000001", heard.id):  # fmt: skip
        assert words in text

    tree.refresh()
    remove_garbage(tree.store, find_garbage(tree.store, keep=1, grace_hours=0))
    assert holders(tree.store, id_of(FIRST)) == [shard.cut.key], "pinned snapshots stay"
    for run in (base, heard):
        (tree.store / "pins" / run.id).unlink()
    remove_garbage(tree.store, find_garbage(tree.store, keep=1, grace_hours=0))
    assert holders(tree.store, id_of(FIRST)) == []
    again = tree.take_down()
    assert (again.is_new, again.holds.snapshots, again.holds.num_bytes) == (False, (), 0)
    assert [line.number for line in again.gone] == [1, 2]
    assert [line.run for line in again.unknown_runs] == [base.id, heard.id]


def test_the_gc_it_advises_keeps_what_is_newer_and_clean(tree: Tree) -> None:
    for number in range(2):
        tree.put(f"talks/{number}.mp4")
        tree.refresh()
    tree.take_down()
    for number in range(2, 5):
        tree.put(f"talks/{number}.mp4")
        tree.refresh()
    answer = tree.take_down()
    assert any("gc --keep 3 " in step for step in answer.next)
    remove_garbage(tree.store, find_garbage(tree.store, keep=3, grace_hours=0))
    assert snapshots.snapshot_numbers(tree.store) == [3, 4, 5]
    assert holders(tree.store, id_of(FIRST)) == []


def test_a_cut_that_no_snapshot_needs_is_found_too(tree: Tree) -> None:
    (shard,) = tree.refresh().body.shards
    (tree.root / PATHS[1]).unlink()
    tree.refresh()
    (tree.store / "snapshots" / "000001.json").unlink()
    (tree.store / "snapshots" / "000002.json").unlink()
    assert tree.take_down(sha_of(FIRST)).holds.orphans == (shard.cut.key,)
    other = tree.take_down(sha_of("somebody else"))
    assert other.holds.orphans == ()
    (ObjectStore(tree.store).path(shard.cut.key) / SOURCES_FILE).unlink()
    assert tree.take_down(sha_of("somebody else")).holds.orphans == (shard.cut.key,), "it may hold it"


def with_audio(tree: Tree) -> Tree:
    """Every source of PATHS gets an audio file beside it, and with it another id."""
    raw = tree.dataset.layouts["raw"].model_copy(
        update={"audio": AudioRule(path="{subject}/audio/{emotion}/level_{level}/{take}.m4a")}
    )
    tree.dataset = tree.dataset.model_copy(update={"layouts": tree.dataset.layouts | {"raw": raw}})
    for path in PATHS:
        tree.put(path.replace("video/front", "audio").replace(".mp4", ".m4a"))
    return tree


def test_the_list_remembers_ids_that_no_table_knows_any_more(tree: Tree) -> None:
    with_audio(tree).refresh()
    (tree.root / FIRST).unlink()
    tree.refresh()
    ids = tree.take_down().takedown.source_ids
    assert set(ids) > {id_of(FIRST)}
    remove_garbage(tree.store, find_garbage(tree.store, keep=1, grace_hours=0))
    (source,) = lineage(tree.store, FIRST).sources
    assert (source.source_ids, [line.state for line in source.snapshots]) == (ids, ["gone"])
    after = tree.refresh()
    assert not {member.source_id for shard in after.body.shards for member in shard.members} & set(ids)


def test_sources_with_the_same_audio_file_are_pointed_out(tree: Tree) -> None:
    with_audio(tree)
    other_view = FIRST.replace("front", "left_30")
    tree.put(other_view)
    tree.refresh()
    answer = tree.take_down()
    assert answer.same_audio == (other_view,)
    states = {row["path"]: row["state"] for row in tree.refresh().source_table.to_pylist()}
    assert (states[FIRST], states[other_view]) == ("rejected", "done")


def test_who_asked_is_in_the_list_and_in_no_snapshot(tree: Tree) -> None:
    tree.refresh()
    take_down(tree.store, FIRST, "  asked\nby\tletter ", who="Erika\udce9 Mustermann")
    after = tree.refresh()
    (listed,) = list_takedowns(tree.store).takedowns
    assert (listed.who, listed.reason) == ("Erika? Mustermann", "asked by letter")
    assert [row["detail"] for row in rows_of(after, sha_of(FIRST))] == ["taken down: asked by letter"]
    assert "Mustermann" not in (tree.store / "snapshots" / "000002.json").read_text()


def test_the_list_says_what_the_latest_snapshot_still_holds(tree: Tree) -> None:
    tree.refresh()
    tree.take_down()
    tree.take_down(sha_of("never seen"))
    assert [entry.is_in_latest for entry in list_takedowns(tree.store).takedowns] == [True, False]
    tree.refresh()
    assert [entry.is_in_latest for entry in list_takedowns(tree.store).takedowns] == [False, False]


def test_it_deletes_nothing_and_waits_for_no_refresh(tree: Tree) -> None:
    tree.refresh()
    before = {path: path.stat().st_mtime_ns for path in tree.store.rglob("*") if path.is_file()}
    with writer_lock(tree.store):
        json.dumps(as_json(tree.take_down()), allow_nan=False)
    after = {path: path.stat().st_mtime_ns for path in tree.store.rglob("*") if path.is_file()}
    new = {path.name for path in set(after) - set(before)}
    assert new == {"takedowns.json", "takedowns.lock", "writer.lock"}
    assert {path: after[path] for path in before} == before


def test_lineage_of_a_taken_down_source_tells_of_it(tree: Tree) -> None:
    run = finished_run(tree.refresh(), "base")
    tree.take_down()
    tree.refresh()
    (source,) = lineage(tree.store, FIRST).sources
    assert source.takedown.reason == "consent withdrawn"
    assert [(line.number, line.state, line.num_clips) for line in source.snapshots] == [
        (1, "done", 1),
        (2, "rejected", 0),
    ]
    assert (source.since, source.until) == (1, 1)
    (held,) = lineage(tree.store, run.id).data
    assert [found.path for found in held.sources if found.is_taken_down] == [FIRST]
    (tree.root / FIRST).unlink()
    tree.refresh()
    (tree.store / "pins" / run.id).unlink()
    remove_garbage(tree.store, find_garbage(tree.store, keep=1, grace_hours=0))
    (forgotten,) = lineage(tree.store, FIRST).sources
    assert (forgotten.takedown, forgotten.snapshots) == (source.takedown, ())
    assert [line.run for line in forgotten.unknown_runs] == [run.id]


# ---- refusals


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        (FIRST, " \n", "needs a reason"), ("nobody", "r", "no source is called"), ("001.mp4", "r", "can mean"),
        ("", "r", "no source is called"), ("latest", "r", "no source is called"), ("2", "r", "no source is called"),
        ("talks/empty.mp4", "r", "empty or could never be read"), ("holiday.mp4", "r", "could never be read"),
        (PATHS[1], "r", "2 different files"),
    ],
)  # fmt: skip
def test_what_is_not_one_source_is_refused_and_nothing_is_written(
    tree: Tree, name: str, reason: str, words: str
) -> None:
    tree.put("talks/empty.mp4", b"")
    tree.put("talks/empty too.mp4", b"")
    tree.put("holiday.mp4")
    tree.refresh()
    tree.put(PATHS[1], b"recorded again")
    tree.refresh()
    with pytest.raises(ConfigError, match=words):
        take_down(tree.store, name, reason)
    assert load_takedowns(tree.store).entries == ()


def test_a_path_that_held_two_files_is_taken_down_by_the_digits_it_names(tree: Tree) -> None:
    tree.refresh()
    tree.put(FIRST, b"recorded again")
    tree.refresh()
    with pytest.raises(ConfigError) as caught:
        tree.take_down()
    assert all(digest[:12] in str(caught.value) for digest in (sha_of(FIRST), sha256_hex(b"recorded again")))
    tree.take_down(sha_of(FIRST)[:12])
    after = tree.refresh()
    assert_out(after)
    assert [row["state"] for row in after.source_table.to_pylist() if row["path"] == FIRST] == ["done"]


def test_putting_back_what_is_not_listed_names_what_is(tree: Tree) -> None:
    tree.refresh()
    with pytest.raises(ConfigError, match="none"):
        put_back(tree.store, FIRST)
    for path in PATHS[:2]:
        tree.take_down(path)
    for name in ("nobody", "mp4", ""):
        with pytest.raises(ConfigError) as caught:
            put_back(tree.store, name)
        assert all(path in str(caught.value) for path in PATHS[:2])
    put_back(tree.store, "level_1/002.mp4")
    assert [entry.path for entry in load_takedowns(tree.store).entries] == [FIRST]


def test_no_store_no_takedown(tmp_path: Path) -> None:
    for act in (lambda: take_down(tmp_path, "x", "r"), lambda: list_takedowns(tmp_path)):
        with pytest.raises(ConfigError, match="no talkset store"):
            act()
    assert list(tmp_path.iterdir()) == []


# ---- the plan


def source(number: int) -> Source:
    name = f"{number:03d}.mp4"
    return Source(name, name.encode().hex(), "x", name, "A", {}, 1, f"{number:064x}", 60.0)


@settings(suppress_health_check=[HealthCheck.too_slow])  # slow is the machine, when it is busy
@given(
    st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)),
    st.floats(0.5, 20),
)  # fmt: skip
def test_no_shard_of_a_plan_holds_a_withdrawn_source_and_the_rest_is_placed_once(
    before: set[int], after: set[int], withdrawn: set[int], minutes: float
) -> None:
    first = make_plan([source(n) for n in sorted(before)], [], [], minutes)
    live = [source(n) for n in sorted(after - withdrawn)]
    gone = [source(n).source_id for n in withdrawn]
    second = make_plan(live, first.shards, [shard.shard_id for shard in first.shards], minutes, gone)
    placed = [source_id for shard in second.shards for source_id in shard.source_ids]
    assert not set(placed) & set(gone)
    wanted = {one.source_id for one in live}
    assert sorted(source_id for source_id in placed if source_id in wanted) == sorted(wanted)
    untouched = [shard for shard in first.shards if not set(shard.source_ids) - wanted]
    assert set(untouched) <= set(second.shards)


def test_a_shard_goes_although_nine_tenths_of_it_live() -> None:
    old = [source(n) for n in range(10)]
    first = make_plan(old, [], [], 100)
    reusable = [first.shards[0].shard_id]
    assert make_plan(old[1:], first.shards, reusable, 100).shards == first.shards
    second = make_plan(old[1:], first.shards, reusable, 100, [old[0].source_id])
    assert [shard.source_ids for shard in second.shards] == [tuple(one.source_id for one in old[1:])]


def test_an_unusable_row_alone_dissolves_nothing() -> None:
    """Only ids do: a withdrawn source that the plan sees as rejected is not in the shards by itself."""
    old = [source(n) for n in range(4)]
    first = make_plan(old, [], [], 100)
    rejected = replace(old[0], error="PermissionError")
    assert make_plan([rejected, *old[1:]], first.shards, [first.shards[0].shard_id], 100).shards == first.shards
