"""Prepare: what a refresh works on. The inventory, the plan, and what of it is in the store already.

Needs no scheduler, so that a dry run and an unchanged dataset start none.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel

from flows.pipeline.fingerprint import unchanged_snapshot
from flows.pipeline.preflight import preflight, preflight_work
from flows.refresh_options import RefreshOptions
from flows.reporting.progress import Progress
from storage import snapshot as snapshots
from storage.catalog import Dataset, load_dataset
from storage.errors import ConfigError, PreflightError, Reason
from storage.hash_cache import HashCache
from storage.lock import writer_lock
from storage.objects import ObjectStore
from storage.records import Source
from storage.snapshot import Snapshot
from storage.store_layout import hash_cache_file
from storage.takedowns import load_takedowns
from tasks.inventory import Inventory, take_inventory
from tasks.plan import Plan, make_plan
from tasks.shard_work import ShardWork, find_work, resolve_features, reusable_shards


@dataclass(frozen=True, slots=True)
class Run:
    """A refresh before anything is computed; its `with` block ends with the store unlocked again.

    Attributes:
        options: what was asked for.
        dataset: its block of datasets.yaml, with an absolute root: workers may run in other folders.
        progress: bars of the steps.
        inventory: the sources as they are on the disk now.
        params: extractor -> its parameters, in the order in which they run; empty when nothing is to be computed.
        skipped: extractor -> why it cannot run on this machine.
        unchanged: the latest snapshot when a refresh could only publish it again, None when there is work to do.
        on_close: what the end of the block undoes, the writer lock above all.
    """

    options: RefreshOptions
    dataset: Dataset
    progress: Progress
    inventory: Inventory
    params: Mapping[str, BaseModel] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    unchanged: Snapshot | None = None
    on_close: ExitStack = field(default_factory=ExitStack)

    @property
    def objects(self) -> ObjectStore:
        """The objects of the store."""
        return ObjectStore(self.options.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.on_close.close()


_handed_over: ContextVar[Run | None] = ContextVar("handed_over", default=None)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to do.

    Attributes:
        inventory: the sources that this run takes, see --limit and --retry-failed.
        plan: their shards.
        shards: every shard with what is committed of it.
    """

    inventory: Inventory
    plan: Plan
    shards: list[ShardWork]


def open_run(options: RefreshOptions) -> Run:
    """Locks the store, removes what killed runs left in its staging folder, and reads what the refresh starts from.

    Everything is read under the lock, so that it holds until the run is closed.

    Raises:
        PreflightError: the root, the store or the disk is not fit for it, or there is no source at all.
        ConfigError: a wrong setting of the dataset, or the store holds another dataset.
        LockedError: another process writes to the store.
        WeightsError: there is work to do, and a weight file is missing or wrong.
    """
    dataset = absolute_dataset(options)
    preflight(dataset, options.store)
    with ExitStack() as stack:
        stack.enter_context(writer_lock(options.store, options.wait_s))
        objects = ObjectStore(options.store)
        objects.sweep_staging()
        # At the end the cluster is gone: what its workers could not finish has no owner any more.
        stack.callback(objects.sweep_staging)
        progress = Progress(options.is_quiet)
        stack.callback(progress.close)
        # A dataset that is known and unchanged is answered before a bar could be read.
        with progress.step("inventory", "tree", delay_s=1.0):
            inventory = read_inventory(dataset, options.store)
        unchanged = unchanged_snapshot(options.store, dataset, inventory)
        params, skipped = ({}, {}) if unchanged else preflight_work(dataset)
        return Run(options, dataset, progress, inventory, params, skipped, unchanged, stack.pop_all())


@contextmanager
def hand_over(run: Run) -> Iterator[None]:
    """Inside the block `take_run` returns this run: the flow does not read again what the command has read.

    The run cannot be a parameter of the flow: those go to the server.
    """
    token = _handed_over.set(run)
    try:
        yield
    finally:
        _handed_over.reset(token)


def take_run(options: RefreshOptions) -> Run:
    """The run that was handed over, else one that is opened now; see `open_run`."""
    return _handed_over.get() or open_run(options)


def unlocked_run(options: RefreshOptions) -> Run:
    """A run that reads a store without locking it, to plan without computing anything."""
    dataset = absolute_dataset(options)
    params, skipped = resolve_features(dataset)
    progress = Progress(options.is_quiet)
    return Run(options, dataset, progress, read_inventory(dataset, options.store), params, skipped)


def absolute_dataset(options: RefreshOptions) -> Dataset:
    """The dataset's block, its root absolute."""
    dataset = load_dataset(options.dataset, options.catalog)
    return dataset.model_copy(update={"root": dataset.root.expanduser().absolute()})


def read_inventory(dataset: Dataset, store: Path) -> Inventory:
    """The sources as they are on the disk now; hashes only what the store does not remember.

    Raises:
        PreflightError: there are none. An empty tree is far more often a disk that is not mounted than a wish to
            publish nothing.
    """
    cache = HashCache(hash_cache_file(store), _header_seconds)
    inventory = take_inventory(dataset, cache, load_takedowns(store))
    cache.save()
    if not inventory.sources:
        patterns = ", ".join(layout.pattern for layout in dataset.layouts.values())
        raise PreflightError(
            f"dataset {dataset.name!r}: no video below {dataset.root} ({inventory.num_ignored} other files, "
            f"{inventory.num_not_selected} not selected); is it mounted? patterns: {patterns}"
        )
    return inventory


def _header_seconds(path: Path) -> float:
    # The codec is loaded only where there is a new or changed file.
    from tasks.media.video import header_seconds

    return header_seconds(path)


def plan_work(run: Run) -> Work:
    """The sources of this run, their shards, and what of these is in the store; computes nothing."""
    with run.progress.step("plan", "plan"):
        parent = snapshots.latest(run.options.store)
        inventory = chosen_sources(run.inventory, parent, run.options)
        shards = [entry.shard() for entry in parent.body.shards] if parent else []
        known = {
            member.source_id: member for entry in (parent.body.shards if parent else ()) for member in entry.members
        }
        # Among equal sources the first by path stands for all of them, as in the plan.
        known |= {source.source_id: source.member() for source in reversed(inventory.sources) if source.is_usable}
        reusable = reusable_shards(shards, known, run.dataset, run.objects)
        plan = make_plan(inventory.sources, shards, reusable, run.dataset.shard_minutes, inventory.taken_down)
        return Work(inventory, plan, find_work(plan, known, run.dataset, run.params, run.objects))


def chosen_sources(inventory: Inventory, parent: Snapshot | None, options: RefreshOptions) -> Inventory:
    """The sources the parent has a final answer for, and at most `limit` others; with retry_failed only failed ones.

    Raises:
        ConfigError: retry_failed without a snapshot.
    """
    if options.limit is None and not options.retry_failed:
        return inventory
    if options.retry_failed and parent is None:
        raise ConfigError("--retry-failed: nothing is published yet, so nothing has failed; refresh without it")
    rows = parent.source_table.select(["source_id", "path_hex", "state"]).to_pylist() if parent else []
    # By content, so that a renamed source is still the one that was done; by path for those that could not be read.
    settled = {row["source_id"] or row["path_hex"] for row in rows if row["state"] != "failed"}
    failed = {key for row in rows if row["state"] == "failed" for key in (row["source_id"], row["path_hex"])}

    def is_settled(source: Source) -> bool:
        # A withdrawn source costs nothing, and the next snapshot must record it.
        is_withdrawn = source.reason is Reason.TAKEN_DOWN
        return is_withdrawn or (source.source_id if source.is_usable else source.path_hex) in settled

    fresh = [source for source in inventory.sources if not is_settled(source)]
    if options.retry_failed:
        fresh = [source for source in fresh if {source.source_id, source.path_hex} & failed]
    taken = {source.path_hex for source in fresh[: options.limit]}
    chosen = tuple(source for source in inventory.sources if is_settled(source) or source.path_hex in taken)
    return replace(inventory, sources=chosen, num_not_taken=len(inventory.sources) - len(chosen))
