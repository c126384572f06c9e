"""Shard work: the objects of a plan that the store already holds, and those that have to be computed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ValidationError

from storage.catalog import Dataset, nearest
from storage.cut_tables import CLIPS_FILE
from storage.errors import ConfigError
from storage.objects import ObjectStore
from storage.records import Member, Shard, Source, StepResult
from storage.tables import read_table
from tasks import features
from tasks.faces.backend import TrackParams
from tasks.plan import Plan
from tasks.step_keys import cut_key, feature_key


@dataclass(slots=True)
class ShardWork:
    """One shard and its committed objects.

    Attributes:
        shard: the shard.
        members: all its sources, in its order.
        sources: those that are still there.
        cut: the committed cut, None when it has to be made.
        features: extractor -> committed object; those that are missing have to be made.
    """

    shard: Shard
    members: tuple[Member, ...]
    sources: tuple[Source, ...]
    cut: StepResult | None = None
    features: dict[str, StepResult] = field(default_factory=dict)


def feature_params(dataset: Dataset, name: str) -> BaseModel:
    """Parameters of one extractor as the dataset sets them."""
    return features.discover()[name].Params.model_validate(dataset.features.get(name, {}))


def resolve_features(dataset: Dataset) -> tuple[dict[str, BaseModel], dict[str, str]]:
    """Parameters of the extractors to run, in an order that respects what each requires, and why others are skipped.

    Raises:
        ConfigError: an extractor that does not exist, or a parameter it does not have.
    """
    _check_tracking(dataset)
    found = features.discover()
    unknown = sorted(set(dataset.features) - set(found))
    if unknown:
        raise ConfigError(f"dataset {dataset.name!r}: no extractor {unknown[0]!r}; there are {', '.join(found)}")
    params: dict[str, BaseModel] = {}
    skipped: dict[str, str] = {}
    for name, given in dataset.features.items():
        try:
            params[name] = found[name].Params.model_validate(given)
        except ValidationError as error:
            raise ConfigError(_explain(f"features.{name}", error, found[name].Params, dataset)) from None
        why = features.missing(name, params[name])
        if why:
            skipped[name] = why
    ready = features.in_order([name for name in params if name not in skipped])
    _check_thresholds(dataset, ready)
    return {name: params[name] for name in ready}, skipped


def _check_tracking(dataset: Dataset) -> None:
    try:
        TrackParams.model_validate(dataset.face.tracking)
    except ValidationError as error:
        raise ConfigError(_explain("face.tracking", error, TrackParams, dataset)) from None


def _explain(where: str, error: ValidationError, model: type[BaseModel], dataset: Dataset) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    hint = nearest(key, list(model.model_fields)) if first["type"] == "extra_forbidden" else f" ({first['msg']})"
    return f"dataset {dataset.name!r}: {where}.{key}{hint}"


def _check_thresholds(dataset: Dataset, names: Sequence[str]) -> None:
    """Refuses thresholds on scores that no extractor computes: they would keep or drop every clip."""
    found = features.discover()
    scores = [
        f"{name}_{column.name}"
        for name in names
        for column in found[name].COLUMNS
        if not column.shape and column.dtype != "string"
    ]
    unknown = sorted(set(dataset.thresholds) - set(scores))
    if unknown:
        have = ", ".join(scores)
        raise ConfigError(f"dataset {dataset.name!r}: thresholds.{unknown[0]}: no such score; there are {have}")


def find_work(
    plan: Plan, known: Mapping[str, Member], dataset: Dataset, params: Mapping[str, BaseModel], store: ObjectStore
) -> list[ShardWork]:
    """Every shard of the plan, with the objects that are committed under today's keys."""
    return [_shard_work(shard, plan, known, dataset, params, store) for shard in plan.shards]


def reusable_shards(
    shards: Iterable[Shard], known: Mapping[str, Member], dataset: Dataset, store: ObjectStore
) -> list[str]:
    """Ids of shards whose cut is committed under today's key, so that they may outlive some of their sources.

    Args:
        shards: of the parent snapshot.
        known: source id -> member, of the inventory and of the parent snapshot.
    """
    return [
        shard.shard_id
        for shard in shards
        if all(source_id in known for source_id in shard.source_ids)
        and store.exists(cut_key(dataset, [known[source_id] for source_id in shard.source_ids])[0])
    ]


def _shard_work(
    shard: Shard, plan: Plan, known: Mapping[str, Member], dataset: Dataset, params: Mapping[str, BaseModel],
    store: ObjectStore,
) -> ShardWork:  # fmt: skip
    members = tuple(known[source_id] for source_id in shard.source_ids)
    live = tuple(plan.by_id[source_id] for source_id in shard.source_ids if source_id in plan.by_id)
    work = ShardWork(shard, members, live)
    key, _ = cut_key(dataset, members)
    if not store.exists(key):
        return work
    is_stored = read_table(store.path(key) / CLIPS_FILE, ["is_stored"])["is_stored"].to_pylist()
    work.cut = _found("cut", shard, key, store, sum(is_stored))
    for name, param in params.items():
        required = features.discover()[name].REQUIRES
        needs = {need: work.features[need].key for need in required if need in work.features}
        if len(needs) < len(required):
            continue
        key, _ = feature_key(name, param, work.cut.key, needs, subject_groups(members))
        if store.exists(key):
            work.features[name] = _found(name, shard, key, store, work.cut.num_clips)
    return work


def subject_groups(members: Sequence[Member]) -> tuple[int, ...]:
    """Subjects as numbers in order of appearance: renaming a subject changes nothing, regrouping does."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(f"{member.layout}/{member.subject}", len(numbers)) for member in members)


def _found(step: str, shard: Shard, key: str, store: ObjectStore, num_clips: int) -> StepResult:
    ref = store.open(key)
    return StepResult(step, shard.shard_id, shard.source_ids, key, ref.digest, ref.num_bytes, num_clips, 0.0, False)
