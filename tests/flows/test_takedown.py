"""A refresh after a takedown: never answered from memory, never left aside by --limit, never in an old shard."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flows.pipeline.fingerprint import remember_fingerprint, unchanged_snapshot
from flows.pipeline.prepare import Run, plan_work, read_inventory, unlocked_run
from flows.refresh_options import RefreshOptions
from storage.errors import Reason
from storage.records import Source
from storage.snapshot import latest
from tasks.store.takedown import take_down
from tests.tasks.store.test_takedown import FIRST, PATHS, Tree, id_of


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A store with one shard of eight sources, one of them under test."""
    tree = Tree(tmp_path).fill()
    tree.refresh()
    return tree


def settle(tree: Tree) -> None:
    """What a complete refresh leaves behind."""
    snapshot = tree.refresh()
    remember_fingerprint(tree.store, tree.dataset, read_inventory(tree.dataset, tree.store), snapshot, True)
    assert unchanged_snapshot(tree.store, tree.dataset, read_inventory(tree.dataset, tree.store)) is not None


@pytest.mark.parametrize("is_file_gone", [False, True])
def test_a_takedown_ends_the_quick_answer_even_when_the_file_is_gone(tree: Tree, is_file_gone: bool) -> None:
    if is_file_gone:
        (tree.root / FIRST).unlink()
    settle(tree)
    take_down(tree.store, FIRST, "asked")
    assert unchanged_snapshot(tree.store, tree.dataset, read_inventory(tree.dataset, tree.store)) is None
    settle(tree)


@pytest.fixture
def run(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A refresh of the tree that has not begun; the withdrawn file is there, and one that is new.

    The drawn cut passes for one under today's key, so that the shard would be kept for the seven that live.
    """
    monkeypatch.setattr(
        "flows.pipeline.prepare.reusable_shards", lambda shards, *rest: [shard.shard_id for shard in shards]
    )
    take_down(tree.store, FIRST, "asked")
    tree.put("talks/new.mp4")
    block = {**tree.dataset.model_dump(mode="json", exclude={"name"}), "features": {"landmarks": {}}}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"synthetic": block}))
    run = unlocked_run(RefreshOptions(dataset="synthetic", store=tree.store, catalog=tmp_path / "datasets.yaml"))
    yield run
    run.progress.close()


def planned(run: Run) -> tuple[dict[str, Source], set[str]]:
    """Sources of the refresh by path, and the ids in its shards."""
    work = plan_work(run)
    assert [item.shard for item in work.shards] == list(work.plan.shards)
    sources = {source.path: source for source in work.inventory.sources}
    return sources, {source_id for shard in work.plan.shards for source_id in shard.source_ids}


def test_the_plan_of_a_refresh_is_without_it_and_with_all_others(run: Run) -> None:
    sources, ids = planned(run)
    assert sources[FIRST].reason is Reason.TAKEN_DOWN
    assert ids == {id_of(path) for path in (*PATHS[1:], "talks/new.mp4")}


@pytest.mark.parametrize("option", [{"limit": 0}, {"retry_failed": True}])
def test_no_option_leaves_a_withdrawn_source_aside(run: Run, option: dict) -> None:
    run = replace(run, options=run.options.model_copy(update=option))
    sources, ids = planned(run)
    assert sources[FIRST].reason is Reason.TAKEN_DOWN
    assert ids == {id_of(path) for path in PATHS[1:]}, "only the new source waits"


def test_the_list_outlives_refreshes(tree: Tree) -> None:
    take_down(tree.store, FIRST, "asked")
    content = (tree.store / "takedowns.json").read_bytes()
    for _ in range(2):
        tree.put("talks/more.mp4", content[:20])
        tree.refresh()
    assert (tree.store / "takedowns.json").read_bytes() == content
    snapshot = latest(tree.store)
    assert snapshot is not None
    assert snapshot.body.counts["rejected"] == {"TAKEN_DOWN": 1}
