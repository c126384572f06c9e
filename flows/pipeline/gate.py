"""Gate: whether a snapshot is worth a training run of a system, with every reason; its functions are pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

from storage.catalog import TrainingRule
from storage.records import State
from storage.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """The properties of a snapshot that the gate decides by.

    Attributes:
        snapshot: its id.
        is_closed: the states of the sources add up to the inventory, kept and dropped clips to the expected ones.
        num_sources, num_failed: all sources, and the failed ones.
        num_clips, hours, num_subjects: of the kept clips.
        clips: keys of the kept clips.
        medians: score column -> median over the kept clips.
        features: extractors whose output every shard holds.
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
class MachineResources:
    """Resources of the machine that would train.

    Attributes:
        has_cuda: whether torch can use a GPU.
        free_gib: free space on the store's disk.
        missing: one line for each weight file or feature that the system needs and that is not available.
    """

    has_cuda: bool
    free_gib: float
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LastTraining:
    """The newest snapshot that a system was trained on.

    Attributes:
        facts: of that snapshot; None when it has been collected by gc.
        snapshot: its id.
        has_failed: training on it ended with an error.
    """

    facts: SnapshotFacts | None
    snapshot: str
    has_failed: bool = False

    def changed_share(self, now: SnapshotFacts) -> float:
        """Clips that only one of the two snapshots keeps, as a share of all; 1 when the old snapshot is gone."""
        if self.facts is None:
            return 1.0
        return len(now.clips ^ self.facts.clips) / max(1, len(now.clips | self.facts.clips))


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to train; the reasons against, or without any, those in favour."""

    is_go: bool
    reasons: tuple[str, ...]


def should_train(
    now: SnapshotFacts, last: LastTraining | None, policy: TrainingRule, machine: MachineResources
) -> Decision:
    """The decision for one system.

    Args:
        now: the snapshot in question.
        last: the system's last training, None when there was none.
        policy: of the dataset.
        machine: that would train.
    """
    against = [*_data_reasons(now, policy), *_machine_reasons(policy, machine), *_change_reasons(now, last, policy)]
    if against:
        return Decision(False, tuple(against))
    since = "never trained before" if last is None else f"{last.changed_share(now):.0%} of the clips are other ones"
    return Decision(True, (f"{now.num_clips} clips, {now.hours:.2f} h, {now.num_subjects} subjects", since))


def facts_of(snapshot: Snapshot) -> SnapshotFacts:
    """The facts of a snapshot, from its counts and tables."""
    counts, kept, shards = snapshot.body.counts, snapshot.rows(), snapshot.body.shards
    sources, clips = counts["sources"], counts["clips"]
    scores: dict[str, list[float]] = {}
    for row in kept:
        for name, value in row.items():
            if isinstance(value, float) and value == value:
                scores.setdefault(name, []).append(value)
    return SnapshotFacts(
        snapshot=snapshot.id,
        is_closed=sources["total"] == sum(sources[state] for state in State)
        and clips["expected"] == clips["kept"] + clips["dropped"] == snapshot.clip_table.num_rows,
        num_sources=sources["total"],
        num_failed=sources[State.FAILED],
        num_clips=len(kept),
        hours=counts["hours_kept"],
        num_subjects=len({row["subject"] for row in kept}),
        clips=frozenset(row["clip"] for row in kept),
        medians={name: median(values) for name, values in scores.items()},
        features=frozenset.intersection(*(frozenset(shard.features) for shard in shards)) if shards else frozenset(),
    )


def _data_reasons(now: SnapshotFacts, policy: TrainingRule) -> Iterator[str]:
    """Accounts that do not close, too little data, scores out of bounds."""
    if not now.is_closed:
        yield "the accounts of the snapshot do not close"
    share = now.num_failed / max(1, now.num_sources)
    if share > policy.max_failed_share:
        yield f"{share:.1%} of the sources failed, at most {policy.max_failed_share:.1%} may"
    if now.num_clips < policy.min_clips:
        yield f"{now.num_clips} clips, {policy.min_clips} are needed"
    if now.hours < policy.min_hours:
        yield f"{now.hours:.3f} h, {policy.min_hours:g} h are needed"
    if now.num_subjects < policy.min_subjects:
        yield f"{now.num_subjects} subjects, {policy.min_subjects} are needed"
    for name, bound in policy.quality.items():
        if name not in now.medians:
            yield f"no clip has the score {name}"
        elif bound.min is not None and now.medians[name] < bound.min:
            yield f"median {name} is {now.medians[name]:.4g}, at least {bound.min:g} is wanted"
        elif bound.max is not None and now.medians[name] > bound.max:
            yield f"median {name} is {now.medians[name]:.4g}, at most {bound.max:g} is wanted"


def _machine_reasons(policy: TrainingRule, machine: MachineResources) -> Iterator[str]:
    """Weights, features, a GPU or disk space that is missing."""
    yield from machine.missing
    if policy.device == "cuda" and not machine.has_cuda:
        yield "no GPU here (training.device is cuda; any would allow the CPU)"
    if machine.free_gib < policy.min_free_gib:
        yield f"{machine.free_gib:.1f} GiB are free, {policy.min_free_gib:g} GiB are needed"


def _change_reasons(now: SnapshotFacts, last: LastTraining | None, policy: TrainingRule) -> Iterator[str]:
    """Data that were trained on before, or that differ too little from those."""
    if last is None:
        return
    if last.snapshot == now.snapshot:
        yield "training on this snapshot has failed before" if last.has_failed else "already trained on this snapshot"
    elif last.changed_share(now) < policy.min_change:
        yield (
            f"{last.changed_share(now):.1%} of the clips differ from the snapshot trained last "
            f"({last.snapshot[:12]}), {policy.min_change:.1%} must"
        )
