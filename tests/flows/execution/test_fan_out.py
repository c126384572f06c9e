"""Who is blamed when a worker dies: the source that killed it, never one that was in flight beside it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.scheduler import KilledWorker

from flows.execution.fan_out import Computed, FanOut
from storage.records import Shard, Source, StepResult
from tasks.shard_work import ShardWork

Break = Callable[[ShardWork, bool], Exception | None]
IN_FLIGHT = 4


@dataclass(frozen=True, eq=False)
class Handle:
    """A cut that is done, or has ended with an error."""

    item: ShardWork
    error: Exception | None

    def result(self) -> StepResult:
        if self.error:
            raise self.error
        source_ids = tuple(source.source_id for source in self.item.sources)
        return StepResult("cut", self.item.shard.shard_id, source_ids, "k" * 64, "", 0, 1, 0.0, True)


@dataclass(frozen=True)
class Tried:
    """What became of the sources, and how often each shard was submitted."""

    done: set[str]
    failed: dict[str, str]
    submitted: Counter[tuple[str, ...]]


@pytest.fixture
def try_all() -> Callable[..., Tried]:
    """Takes shards through the fan-out, without a cluster; `breaks` says how a shard ends, alone or beside others."""

    def run_all(breaks: Break, *shards: tuple[str, ...]) -> Tried:
        submitted: Counter[tuple[str, ...]] = Counter()

        class WithoutCluster(FanOut):
            def submit(self, item: ShardWork) -> dict[str, Any]:
                names = tuple(source.path for source in item.sources)
                submitted[names] += 1
                is_first_pass = submitted[names] == 1 and names in shards
                return {"cut": Handle(item, breaks(item, not is_first_pass))}

            def in_flight_limit(self) -> int:
                return IN_FLIGHT

        unused: Any = None
        computed = Computed()
        WithoutCluster(unused, unused, computed).compute_all([work(*names) for names in shards])
        done = {source_id for result in computed.results for source_id in result.shard.source_ids}
        return Tried(done, computed.failed, submitted)

    return run_all


def work(*names: str) -> ShardWork:
    sources = tuple(source(name) for name in names)
    shard = Shard.of(tuple(found.source_id for found in sources), 1.0)
    return ShardWork(shard, tuple(found.member() for found in sources), sources)


def source(name: str) -> Source:
    return Source(
        path=name, path_hex=name.encode().hex(), layout="files", name=name, subject=name, labels={}, sha256=name
    )


def killed() -> KilledWorker:
    worker: Any = SimpleNamespace(address="tcp://127.0.0.1:1")
    return KilledWorker("cut-1", worker, 1)


def has(item: ShardWork, name: str) -> bool:
    return any(found.path == name for found in item.sources)


def test_neighbour_of_a_killer_is_tried_alone_and_done(try_all: Callable[..., Tried]) -> None:
    """K-02, K-09: a worker that dies takes the shards that wait at it along, also those of one source."""

    def breaks(item: ShardWork, is_alone: bool) -> Exception | None:
        return killed() if has(item, "killer") or not is_alone else None

    tried = try_all(breaks, ("killer",), ("a",), ("b",))
    assert tried.done == {source(name).source_id for name in "ab"}
    assert set(tried.failed) == {source("killer").source_id}
    assert tried.failed[source("killer").source_id].startswith("KilledWorker: ")
    assert set(tried.submitted.values()) == {2}


def test_shard_that_breaks_alone_is_taken_apart(try_all: Callable[..., Tried]) -> None:
    def breaks(item: ShardWork, is_alone: bool) -> Exception | None:
        return killed() if has(item, "killer") else None

    tried = try_all(breaks, ("a", "killer", "b"), ("c",))
    assert tried.done == {source(name).source_id for name in "abc"}
    assert set(tried.failed) == {source("killer").source_id}
    assert tried.submitted["a", "killer", "b"] == 2
    assert tried.submitted["c",] == 1


def test_error_of_its_own_fails_a_single_source_at_once(try_all: Callable[..., Tried]) -> None:
    """An error that no other shard can have caused is not tried again."""
    tried = try_all(lambda item, is_alone: ValueError("odd") if has(item, "a") else None, ("a",), ("b",))
    assert tried.failed == {source("a").source_id: "ValueError: odd"}
    assert set(tried.submitted.values()) == {1}
