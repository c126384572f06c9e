"""Taking stock: what a refresh finds, plans and already has. Knows no scheduler, so that a dry run needs none."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from flows.pipeline.sources import read_inventory
from flows.refresh_options import RefreshOptions
from flows.reporting.progress import Progress
from storage import snapshot as snapshots
from storage.catalog import Dataset, load_dataset
from storage.errors import ConfigError, PreflightError, Reason
from storage.lock import writer_lock
from storage.objects import ObjectStore
from storage.records import ShardResults, Source
from storage.snapshot import Snapshot
from tasks.inventory import Inventory
from tasks.plan import Plan, make_plan
from tasks.shard_work import ShardWork, find_work, resolve_features, reusable_shards


@dataclass(slots=True)
class Run:
    """What one refresh knows: filled from top to bottom of the flow."""

    options: RefreshOptions
    dataset: Dataset
    objects: ObjectStore
    progress: Progress
    params: Mapping[str, BaseModel]
    skipped: Mapping[str, str]
    results: list[ShardResults] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    broken: list[ShardWork] = field(default_factory=list)
    num_new: int = 0


@contextmanager
def open_run(options: RefreshOptions, watch: Callable[[str, int, int], None] | None = None) -> Iterator[Run]:
    """The store, locked for this run; what killed runs left behind is swept."""
    with writer_lock(options.store, options.wait_s):
        run = new_run(options, watch)
        snapshots.bind_store(options.store, run.dataset.name)
        run.objects.sweep_staging()
        try:
            yield run
        finally:
            run.progress.close()


def new_run(options: RefreshOptions, watch: Callable[[str, int, int], None] | None = None) -> Run:
    """A run of which nothing is known yet."""
    dataset = load_dataset(options.dataset, options.catalog)
    # Workers may run in another folder: they get the root as it is seen from here.
    dataset = dataset.model_copy(update={"root": dataset.root.expanduser().absolute()})
    params, skipped = resolve_features(dataset)
    progress = Progress(options.is_quiet, watch)
    return Run(options, dataset, ObjectStore(options.store), progress, params, skipped)


def count_sources(run: Run) -> Inventory:
    """The inventory; hashes what is new or touched."""
    with run.progress.step("inventory", "tree"):
        inventory = read_inventory(run.dataset, run.options.store)
        _require_sources(run.dataset, inventory)
    return inventory


def plan_work(run: Run, inventory: Inventory) -> tuple[Inventory, Plan, list[ShardWork]]:
    """The sources of this run, their plan, and what of it is in the store; computes nothing."""
    with run.progress.step("plan", "plan"):
        parent = snapshots.latest(run.options.store)
        inventory = _limited(inventory, parent, run.options)
        shards = [entry.shard() for entry in parent.body.shards] if parent else []
        known = {
            member.source_id: member for entry in (parent.body.shards if parent else ()) for member in entry.members
        }
        # Among equal sources the first by path stands for all of them, as in the plan.
        known |= {source.source_id: source.member() for source in reversed(inventory.sources) if source.is_usable}
        reusable = reusable_shards(shards, known, run.dataset, run.objects)
        plan = make_plan(inventory.sources, shards, reusable, run.dataset.shard_minutes, inventory.taken_down)
        work = find_work(plan, known, run.dataset, run.params, run.objects)
    return inventory, plan, work


def _require_sources(dataset: Dataset, inventory: Inventory) -> None:
    """An empty tree is far more often a disk that is not mounted than a wish to publish nothing."""
    if not inventory.sources:
        patterns = ", ".join(layout.pattern for layout in dataset.layouts.values())
        raise PreflightError(
            f"dataset {dataset.name!r}: no video below {dataset.root} ({inventory.num_ignored} other files, "
            f"{inventory.num_not_selected} not selected); is it mounted? patterns: {patterns}"
        )


def _limited(inventory: Inventory, parent: Snapshot | None, options: RefreshOptions) -> Inventory:
    """The sources the parent has a final answer for, and at most `limit` others; with retry_failed only failed ones."""
    if options.limit is None and not options.retry_failed:
        return inventory
    if options.retry_failed and parent is None:
        raise ConfigError("--retry-failed: nothing is published yet, so nothing has failed; refresh without it")
    rows = parent.source_table.select(["source_id", "path_hex", "state"]).to_pylist() if parent else []
    # By content, so that a renamed source is still the one that was done; by path for those that could not be read.
    settled = {row["source_id"] or row["path_hex"] for row in rows if row["state"] != "failed"}
    failed = {key for row in rows if row["state"] == "failed" for key in (row["source_id"], row["path_hex"])}

    def is_settled(source: Source) -> bool:
        # A withdrawn source costs nothing and must be told of at once.
        is_withdrawn = source.reason is Reason.TAKEN_DOWN
        return is_withdrawn or (source.source_id if source.is_usable else source.path_hex) in settled

    fresh = [source for source in inventory.sources if not is_settled(source)]
    if options.retry_failed:
        fresh = [source for source in fresh if {source.source_id, source.path_hex} & failed]
    taken = {source.path_hex for source in fresh[: options.limit]}
    chosen = tuple(source for source in inventory.sources if is_settled(source) or source.path_hex in taken)
    return replace(inventory, sources=chosen, num_not_taken=len(inventory.sources) - len(chosen))
