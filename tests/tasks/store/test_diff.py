"""Diff: added, removed, renamed, changed; nothing where nothing changed."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.catalog import Threshold
from storage.errors import Reason
from storage.records import ShardResults, Source
from storage.snapshot import Snapshot
from tasks.inventory import Inventory
from tasks.plan import make_plan
from tasks.publish import RefreshResults, publish_snapshot
from tasks.store.diff import Change, ClipChanges, SourceChanges, StateChange, diff_snapshots
from tests import synthetic_store
from tests.synthetic_store import Take, build_store, regular_takes, synthetic_dataset


def publish(store: Path, sources: Iterable[Source], **thresholds: Threshold) -> Snapshot:
    """A snapshot of exactly these sources, without pictures."""
    from storage.objects import ObjectStore

    dataset = synthetic_dataset(thresholds=thresholds)
    ordered = sorted(sources, key=lambda source: source.path)
    plan = make_plan(ordered, [], [], dataset.shard_minutes)
    objects, results = ObjectStore(store), []
    for shard in plan.shards:
        takes = [Take(plan.by_id[source_id], 25) for source_id in shard.source_ids]
        cut = synthetic_store.commit_cut(objects, shard, takes, 0, False)
        features = synthetic_store.commit_features(objects, shard, cut, False)
        results.append(ShardResults(shard, tuple(take.source.member() for take in takes), cut, features))
    return publish_snapshot(dataset, store, RefreshResults(Inventory(tuple(ordered), 0, 0), plan, results), "0")[0]


@pytest.fixture
def sources() -> list[Source]:
    return [take.source for take in regular_takes(3, 2, (25,), 0)]


def moved(source: Source, path: str) -> Source:
    return replace(source, path=path, path_hex=path.encode().hex(), name=path.removesuffix(".mp4"))


def test_a_snapshot_does_not_differ_from_itself(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path, with_media=False, with_trouble=True)
    answer = diff_snapshots(snapshot, snapshot)
    assert (answer.old, answer.new, answer.config) == (1, 1, {})
    assert answer.sources == SourceChanges((), (), (), (), ())
    assert answer.clips == ClipChanges((), (), (), (), ())


def test_every_kind_of_change_is_told_apart(tmp_path: Path, sources: list[Source]) -> None:
    kept, renamed, deleted, rewritten, swapped_a, swapped_b = sources
    old = publish(tmp_path, sources)
    new = publish(tmp_path, [
        kept, moved(renamed, "elsewhere/r.mp4"), replace(rewritten, sha256="f" * 64), replace(deleted, sha256="e" * 64,
        path="fresh.mp4", path_hex=b"fresh.mp4".hex(), name="fresh"), moved(swapped_a, swapped_b.path),
        moved(swapped_b, swapped_a.path),
    ])  # fmt: skip
    found = diff_snapshots(old, new).sources
    assert found.added == ("fresh.mp4",)
    assert found.removed == (deleted.path,)
    assert found.renamed == (Change(renamed.path, "elsewhere/r.mp4"),)
    assert found.changed == tuple(sorted([rewritten.path, swapped_a.path, swapped_b.path]))
    assert found.state == ()


def test_the_way_back_is_the_mirror(tmp_path: Path, sources: list[Source]) -> None:
    old, new = publish(tmp_path, sources[:4]), publish(tmp_path, sources[2:])
    there, back = diff_snapshots(old, new), diff_snapshots(new, old)
    for one, other in ((there.sources, back.sources), (there.clips, back.clips)):
        assert one.added == other.removed != ()
        assert one.removed == other.added != ()


def test_a_copy_of_a_source_is_added_not_renamed(tmp_path: Path, sources: list[Source]) -> None:
    old = publish(tmp_path, sources)
    new = publish(tmp_path, [*sources, moved(sources[0], "zz/copy.mp4")])
    found = diff_snapshots(old, new)
    assert found.sources.added == ("zz/copy.mp4",)
    assert found.sources.renamed == ()
    assert found.clips == ClipChanges((), (), (), (), ())


def test_thresholds_show_as_settings_and_as_clips_kept_or_dropped(tmp_path: Path, sources: list[Source]) -> None:
    old = publish(tmp_path, sources)
    scores: dict[str, Any] = {row["name"]: row["quality_face_size_px"] for row in old.rows(kept=False)}
    limit = sorted(scores.values())[3]
    new = publish(tmp_path, sources, quality_face_size_px=Threshold(min=limit))
    answer = diff_snapshots(old, new)
    assert answer.clips.dropped_now == tuple(sorted(name for name, score in scores.items() if score < limit))
    assert diff_snapshots(new, old).clips.kept_now == answer.clips.dropped_now
    assert answer.clips.changed == ()
    (setting,) = answer.config
    assert setting.startswith("thresholds")


def test_a_source_that_is_taken_down_changes_its_state_not_its_content(tmp_path: Path, sources: list[Source]) -> None:
    old = publish(tmp_path, sources)
    new = publish(tmp_path, [replace(sources[0], reason=Reason.TAKEN_DOWN, detail="asked to"), *sources[1:]])
    answer = diff_snapshots(old, new).sources
    assert (answer.changed, answer.added, answer.removed) == ((), (), ())
    assert answer.state == (StateChange(sources[0].path, "done", "rejected"),)
