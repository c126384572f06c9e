"""Gate: whether a snapshot is worth a training run of a system, with every reason. Pure: values in, decision out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

from storage.catalog import TrainingRule
from storage.records import State
from storage.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gate looks at in a snapshot.

    Attributes:
        snapshot: its id.
        is_closed: the states of the sources add up to the inventory, kept and dropped clips to the expected ones.
        num_sources, num_failed: sources, and those that failed.
        num_clips, hours, num_subjects: of what is kept.
        clips: keys of the kept clips.
        medians: score column -> median over the kept clips.
        features: extractors that every shard holds.
    """

    snapshot: str
    is_closed: bool
    num_sources: int
    num_failed: int
    num_clips: int
    hours: float
    num_subjects: int
    clips: frozenset[str]
    medians: Mapping[str, float] = field(default_factory=dict)
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Means:
    """What the machine that would train has.

    Attributes:
        has_cuda: a GPU that torch can use.
        free_gib: on the store's disk.
        missing: why weights or features that the system cannot do without are not there; empty when nothing is missing.
    """

    has_cuda: bool
    free_gib: float
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Last:
    """The newest snapshot that a system was trained on.

    Attributes:
        facts: of that snapshot; None when it has been collected by gc.
        snapshot: its id.
        has_failed: training on it ended with an error.
    """

    facts: Facts | None
    snapshot: str
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Train or not, and why: what stands against it, or what speaks for it."""

    is_go: bool
    reasons: tuple[str, ...]


def should_train(now: Facts, last: Last | None, policy: TrainingRule, means: Means) -> Decision:
    """The decision for one system.

    Args:
        now: the snapshot in question.
        last: what the system was trained on before, None when never.
        policy: the dataset's.
        means: of the machine.
    """
    against = [*_accounts(now, policy), *_size(now, policy), *_quality(now, policy), *_means(policy, means)]
    against += _change(now, last, policy)
    if against:
        return Decision(False, tuple(against))
    since = "never trained before" if last is None else f"{_changed_share(now, last):.0%} of the clips are other ones"
    return Decision(True, (f"{now.num_clips} clips, {now.hours:.2f} h, {now.num_subjects} subjects", since))


def facts_of(snapshot: Snapshot) -> Facts:
    """Reads the facts out of a snapshot's tables."""
    counts = snapshot.body.counts
    sources, clips = counts["sources"], counts["clips"]
    kept = snapshot.rows()
    shards = snapshot.body.shards
    features = frozenset.intersection(*(frozenset(shard.features) for shard in shards)) if shards else frozenset()
    return Facts(
        snapshot=snapshot.id,
        is_closed=sources["total"] == sum(sources[state] for state in State)
        and clips["expected"] == clips["kept"] + clips["dropped"] == snapshot.clip_table.num_rows,
        num_sources=sources["total"],
        num_failed=sources[State.FAILED],
        num_clips=len(kept),
        hours=counts["hours_kept"],
        num_subjects=len({row["subject"] for row in kept}),
        clips=frozenset(row["clip"] for row in kept),
        medians=_medians(kept),
        features=features,
    )


def _medians(rows: list[dict[str, object]]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and value == value:
                scores.setdefault(name, []).append(value)
    return {name: median(values) for name, values in scores.items()}


def _accounts(now: Facts, policy: TrainingRule) -> Iterator[str]:
    if not now.is_closed:
        yield "the accounts of the snapshot do not close"
    share = now.num_failed / max(1, now.num_sources)
    if share > policy.max_failed_share:
        yield f"{share:.1%} of the sources failed, at most {policy.max_failed_share:.1%} may"


def _size(now: Facts, policy: TrainingRule) -> Iterator[str]:
    if now.num_clips < policy.min_clips:
        yield f"{now.num_clips} clips, {policy.min_clips} are needed"
    if now.hours < policy.min_hours:
        yield f"{now.hours:.3f} h, {policy.min_hours:g} h are needed"
    if now.num_subjects < policy.min_subjects:
        yield f"{now.num_subjects} subjects, {policy.min_subjects} are needed"


def _quality(now: Facts, policy: TrainingRule) -> Iterator[str]:
    for name, bound in policy.quality.items():
        if name not in now.medians:
            yield f"no clip has the score {name}"
        elif bound.min is not None and now.medians[name] < bound.min:
            yield f"median {name} is {now.medians[name]:.4g}, at least {bound.min:g} is wanted"
        elif bound.max is not None and now.medians[name] > bound.max:
            yield f"median {name} is {now.medians[name]:.4g}, at most {bound.max:g} is wanted"


def _means(policy: TrainingRule, means: Means) -> Iterator[str]:
    yield from means.missing
    if policy.device == "cuda" and not means.has_cuda:
        yield "no GPU here (training.device is cuda; any would allow the CPU)"
    if means.free_gib < policy.min_free_gib:
        yield f"{means.free_gib:.1f} GiB are free, {policy.min_free_gib:g} GiB are needed"


def _change(now: Facts, last: Last | None, policy: TrainingRule) -> Iterator[str]:
    if last is None:
        return
    if last.snapshot == now.snapshot:
        yield "training on this snapshot has failed before" if last.has_failed else "already trained on this snapshot"
    elif _changed_share(now, last) < policy.min_change:
        yield (
            f"{_changed_share(now, last):.1%} of the clips differ from the snapshot trained last "
            f"({last.snapshot[:12]}), {policy.min_change:.1%} must"
        )


def _changed_share(now: Facts, last: Last) -> float:
    """Clips that only one of the two snapshots keeps, as a share of all; 1 when the old snapshot is gone."""
    if last.facts is None:
        return 1.0
    either = now.clips | last.facts.clips
    return len(now.clips ^ last.facts.clips) / max(1, len(either))
