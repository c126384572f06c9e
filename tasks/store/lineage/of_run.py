"""Lineage of a run or one of its checkpoints: the runs it started from, the data and the weights that went into it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from storage import weights
from storage.records import State
from storage.runs import Checkpoint, RunRecord
from storage.snapshot import Snapshot
from storage.weights import UNPINNED
from tasks.store.lineage.history import CheckpointLine, GoneSnapshot, History, RunLine, kept_clips, origins, run_line
from tasks.store.lineage.of_snapshot import ParentSnapshot, parents_of
from tasks.store.names import Match, NamedRun, is_digits, source_rows

# The order of importance: trained on, steered by, measured on.
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class RunDetails(RunLine):
    """A run with all that determined it; see storage.runs.RunRecord."""

    dataset: str
    config: Mapping[str, Any]
    seed: int
    code_version: str


@dataclass(frozen=True, slots=True)
class LostParent:
    """A run that another one started from and whose record is not in this store.

    Attributes:
        run: The id of the run.
        of: The run that started from it.
        as_: Its stage, or 'continued' when training went on from its state; in JSON 'as'.
        loaded: The SHA-256 of the file.
        is_gone: Always true.
    """

    run: str
    of: str
    as_: str
    loaded: str
    is_gone: Literal[True] = True


@dataclass(frozen=True, slots=True)
class ParentRun(RunLine):
    """A run that another one started from; see LostParent."""

    of: str
    as_: str
    loaded: str
    is_gone: Literal[False] = False


@dataclass(frozen=True, slots=True)
class RunSource:
    """A source with kept clips in the data of a run: columns of sources.parquet, its clips, and its takedown.

    Attributes:
        split, num_clips: The split and the number of its kept clips.
        is_taken_down: True when it is on the list of takedowns by now.
    """

    path: str
    source_id: str
    sha256: str
    subject: str
    split: str
    num_clips: int
    is_taken_down: bool


@dataclass(frozen=True, slots=True)
class RunData:
    """A snapshot that went into a run.

    Attributes:
        number, id: The number and the id of the snapshot.
        is_gone: True when it was collected; nothing but its number and id is known then.
        runs: The ids of the runs that trained on it.
        ancestors: The snapshots before it, nearest first.
        subjects: Split -> subject labels.
        sources: The sources with kept clips, the training split first.
    """

    number: int
    id: str
    is_gone: bool
    runs: tuple[str, ...]
    ancestors: tuple[ParentSnapshot, ...]
    subjects: Mapping[str, tuple[str, ...]]
    sources: tuple[RunSource, ...]


@dataclass(frozen=True, slots=True)
class UsedWeights:
    """Third-party weights that went into a run or into its data.

    Attributes:
        name: The entry in weights.toml.
        sha256: The hash of the file.
        licence, is_noncommercial: The terms of the entry, '' and None when it is no longer listed.
        used_by: The runs, and the snapshots whose steps used it.
    """

    name: str
    sha256: str
    licence: str
    is_noncommercial: bool | None
    used_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunLineage:
    """Everything that went into a run.

    Attributes:
        name, kind: The name that was asked for, and the kind of thing that it means.
        run: The run.
        checkpoint: The file of it that was named, None when the run was.
        parents: Every run it descends from, nearest first.
        children: The ids of the runs that started from it.
        data: Each snapshot that it or a parent trained on, its own first.
        weights: The weights used in training or in making the data, by name.
        gone: The collected snapshots; what only they recorded is not in the answer.
    """

    name: str
    kind: Literal["run"]
    run: RunDetails
    checkpoint: CheckpointLine | None
    parents: tuple[ParentRun | LostParent, ...]
    children: tuple[str, ...]
    data: tuple[RunData, ...]
    weights: tuple[UsedWeights, ...]
    gone: tuple[GoneSnapshot, ...]


def match_runs(history: History, name: str) -> list[Match[NamedRun]]:
    """The runs and checkpoints that `name` can mean.

    A run is called by its id, the beginning of it, or its folder; a checkpoint by the end of its path,
    `<run id>/<file>`, or the first digits of its hash.
    """
    found = []
    for run in history.runs.values():
        is_id = name.rstrip("/").rpartition("/")[2] == run.id
        if is_id or (len(name) >= 6 and run.id.startswith(name)):
            found.append(Match(NamedRun(run), is_id, f"run {run.id}"))
        for checkpoint in run.checkpoints:
            is_whole = name == checkpoint.sha256 or f"/{name}".endswith(f"/{run.id}/{checkpoint.file}")
            if is_whole or (is_digits(name) and checkpoint.sha256.startswith(name)):
                label = f"checkpoint {run.id}/{checkpoint.file} (sha256 {checkpoint.sha256[:12]})"
                found.append(Match(NamedRun(run, checkpoint), is_whole, label))
    return found


def run_lineage(history: History, name: str, run: RunRecord, checkpoint: Checkpoint | None) -> RunLineage:
    """The lineage of a run; `name` is the name that was asked for, of the run or of its `checkpoint`."""
    parents, ancestors = _ancestry(history, run)
    line = [run, *ancestors]
    users: dict[str, list[RunRecord]] = {}
    for member in line:
        users.setdefault(member.key.snapshot, []).append(member)
    return RunLineage(
        name=name,
        kind="run",
        run=run_line(
            RunDetails, history, run, dataset=run.dataset, config=run.key.config, seed=run.seed,
            code_version=run.code_version,
        ),
        checkpoint=CheckpointLine.of(checkpoint) if checkpoint else None,
        parents=tuple(parents),
        children=tuple(other.id for other in history.runs.values() if run in history.parents_of(other)),
        data=tuple(_data(history, runs) for runs in users.values()),
        weights=_weights(history, line),
        gone=history.gone_snapshots(),
    )  # fmt: skip


def _ancestry(history: History, run: RunRecord) -> tuple[list[ParentRun | LostParent], list[RunRecord]]:
    """Each start from a file of another run, nearest first, and the records of these runs, each once."""
    starts: list[ParentRun | LostParent] = []
    line = [run]
    for child in line:  # grows while it is walked
        for role, parent in origins(child).items():
            found = history.run_of(parent)
            if found is None:
                starts.append(LostParent(parent.run, child.id, role, parent.sha256))
                continue
            starts.append(run_line(ParentRun, history, found, of=child.id, as_=role, loaded=parent.sha256))
            if found not in line:
                line.append(found)
    return starts, line[1:]


# ---- data


def _data(history: History, runs: Sequence[RunRecord]) -> RunData:
    """The data of these runs, which have one snapshot."""
    snapshot, number = history.snapshot_of(runs[0]), runs[0].snapshot_number
    sources = _sources(history, snapshot) if snapshot else ()
    subjects = {split: tuple(sorted({s.subject for s in sources if s.split == split})) for split in _SPLITS}
    return RunData(
        number=number, id=runs[0].key.snapshot, is_gone=snapshot is None, runs=tuple(run.id for run in runs),
        ancestors=parents_of(history, number), subjects={split: found for split, found in subjects.items() if found},
        sources=sources,
    )  # fmt: skip


def _sources(history: History, snapshot: Snapshot) -> tuple[RunSource, ...]:
    count = Counter((row["source_id"], row["split"]) for row in kept_clips(snapshot))
    done = {row["source_id"]: row for row in source_rows(snapshot) if row["state"] == State.DONE.value}
    found = [
        RunSource(
            path=done[source_id]["path"], source_id=source_id, sha256=done[source_id]["sha256"],
            subject=done[source_id]["subject"], split=split, num_clips=number,
            is_taken_down=history.takedowns.of(done[source_id]["sha256"], source_id) is not None,
        )
        for (source_id, split), number in count.items()
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda source: (_SPLITS.index(source.split), source.path)))


# ---- weights


def _weights(history: History, line: Sequence[RunRecord]) -> tuple[UsedWeights, ...]:
    used: dict[tuple[str, str], list[str]] = {}
    for run in line:
        for name, digest in run.key.weights.items():
            used.setdefault((name, digest.removeprefix(UNPINNED)), []).append(f"run {run.id}")
    for snapshot in {found.id: found for run in line if (found := history.snapshot_of(run))}.values():
        # All its shards are made by the same rules, so the first one has all.
        refs = [ref for shard in snapshot.body.shards[:1] for ref in (shard.cut, *shard.features.values())]
        inputs = [snapshot.objects.manifest(ref.key).key_inputs.get("weights", {}) for ref in refs]
        for name, digest in {pair for found in inputs for pair in found.items()}:
            used.setdefault((name, digest.removeprefix(UNPINNED)), []).append(f"snapshot {snapshot.body.number}")
    listed = weights.listed()
    return tuple(
        UsedWeights(
            name=name, sha256=digest, licence=listed[name].licence if name in listed else "",
            is_noncommercial=listed[name].is_noncommercial if name in listed else None, used_by=tuple(users),
        )
        for (name, digest), users in sorted(used.items())
    )  # fmt: skip
