import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.records import Shard, Source
from tasks.plan import make_plan


def source(number: int, subject: str = "A", seconds: float = 60.0, content: str | None = None) -> Source:
    name = f"{number:03d}.mp4"
    return Source(
        path=name, path_hex=name.encode().hex(), layout="x", name=name, subject=subject, labels={}, size_bytes=1,
        sha256=content or f"{number:064x}", seconds=seconds,
    )  # fmt: skip


def ids(plan) -> list[str]:
    return sorted(source_id for shard in plan.shards for source_id in shard.source_ids)


def test_every_distinct_source_stands_in_exactly_one_shard():
    sources = [source(n, subject="AB"[n % 2]) for n in range(25)]
    plan = make_plan(sources, [], [], 10)
    assert ids(plan) == sorted(s.source_id for s in sources)
    assert max(shard.minutes for shard in plan.shards) <= 10


def test_subjects_stay_together():
    sources = [source(n, subject="AB"[n % 2]) for n in range(10)]
    subjects = {s.source_id: s.subject for s in sources}
    plan = make_plan(sources, [], [], 5)
    assert [{subjects[i] for i in shard.source_ids} for shard in plan.shards] == [{"A"}, {"B"}]


def test_twins_are_planned_once_and_named():
    sources = [source(1, content="c" * 64), source(2, content="c" * 64), source(3)]
    plan = make_plan(sources, [], [], 10)
    assert len(ids(plan)) == 2
    assert plan.duplicates == {sources[1].path_hex: "001.mp4"}


def test_unchanged_sources_keep_their_shard_and_new_ones_form_new_shards():
    old = [source(n) for n in range(20)]
    first = make_plan(old, [], [], 10)
    second = make_plan([*old, source(99)], first.shards, [s.shard_id for s in first.shards], 10)
    assert second.shards[: len(first.shards)] == first.shards
    assert len(second.shards) == len(first.shards) + 1


@pytest.mark.parametrize(("num_gone", "is_kept"), [(5, True), (6, False)])
def test_a_shard_is_dissolved_when_less_than_half_of_it_lives(num_gone, is_kept):
    old = [source(n) for n in range(10)]
    first = make_plan(old, [], [], 100)
    second = make_plan(old[num_gone:], first.shards, [first.shards[0].shard_id], 100)
    assert (second.shards[0] == first.shards[0]) is is_kept
    live = {s.source_id for s in old[num_gone:]}
    assert set(ids(second)) & {s.source_id for s in old} >= live


def test_a_shard_whose_cut_is_no_longer_valid_does_not_outlive_its_sources():
    old = [source(n) for n in range(10)]
    first = make_plan(old, [], [], 100)
    second = make_plan(old[1:], first.shards, [], 100)
    assert ids(second) == sorted(s.source_id for s in old[1:])


@given(st.lists(st.integers(0, 40), max_size=60), st.lists(st.integers(0, 40), max_size=60), st.floats(0.5, 20))
def test_live_sources_are_always_placed_exactly_once(before, after, minutes):
    old = [source(n) for n in sorted(set(before))]
    new = [source(n) for n in sorted(set(after))]
    first = make_plan(old, [], [], minutes)
    second = make_plan(new, first.shards, [s.shard_id for s in first.shards], minutes)
    live = {s.source_id for s in new}
    assert sorted(i for i in ids(second) if i in live) == sorted(live)
    assert make_plan(new, first.shards, [s.shard_id for s in first.shards], minutes) == second


def test_shard_ids_are_contents():
    assert Shard.of(("a", "b")).shard_id == Shard.of(("a", "b"), 3.0).shard_id != Shard.of(("b", "a")).shard_id
    assert np.unique([Shard.of((str(n),)).shard_id for n in range(500)]).size == 500
