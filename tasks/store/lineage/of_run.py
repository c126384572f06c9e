"""Lineage of a run or one of its checkpoints: the runs it started from, the data and the weights that went into it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from storage import weights
from storage.records import State
from storage.runs import Checkpoint, RunRecord
from storage.snapshot import Snapshot
from tasks.store.lineage.history import History, checkpoint_line, kept_clips, origins, run_line, source_rows
from tasks.store.lineage.names import Match, is_digits
from tasks.store.lineage.of_snapshot import parents_of

# The order of importance: trained on, steered by, measured on.
_SPLITS = ("train", "val", "test")
# What storage.weights.fingerprint puts before the digest of a file that weights.toml does not pin.
_UNPINNED = "unpinned:"


def match_runs(history: History, name: str) -> list[Match]:
    """What `name` can mean: an id, its beginning or folder; the end of a path, `<run id>/<file>`; digits of a hash."""
    found = []
    for run in history.runs.values():
        is_id = name.rstrip("/").rpartition("/")[2] == run.id
        if is_id or (len(name) >= 6 and run.id.startswith(name)):
            found.append(Match("run", is_id, f"run {run.id}", (run, None)))
        for checkpoint in run.checkpoints:
            is_exact = name == checkpoint.sha256 or f"/{name}".endswith(f"/{run.id}/{checkpoint.file}")
            if is_exact or (is_digits(name) and checkpoint.sha256.startswith(name)):
                label = f"checkpoint {run.id}/{checkpoint.file} (sha256 {checkpoint.sha256[:12]})"
                found.append(Match("run", is_exact, label, (run, checkpoint)))
    return found


def run_lineage(history: History, run: RunRecord, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """What went into a run.

    Args:
        history: of the store.
        run: which.
        checkpoint: the one of its files that was asked for, if any.

    Returns:
        'run': see `run_line`, with 'config', 'seed', 'code_version', 'dataset'; 'checkpoint': as given;
        'parents': every run it descends from, nearest first, each a `run_line` with 'of' (the run that started from
        it), 'as' (its stage, or 'continued' when training went on from its state) and 'loaded' (sha256 of the file);
        of one that 'is_gone', not recorded here, nothing else is known;
        'children': ids of the runs that started from it;
        'data': what its snapshot and those of its parents held, see `_data`;
        'weights': of others, used in training or in making the data, see `_weights`.
    """
    ancestry = list(_ancestry(history, run))
    line = {member.id: member for member in (run, *(found for _, found in ancestry if found))}
    facts = {"dataset": run.dataset, "config": run.key.config, "seed": run.seed, "code_version": run.code_version}
    return {
        "run": run_line(history, run) | facts,
        "checkpoint": checkpoint_line(checkpoint) if checkpoint else None,
        "parents": [_parent(history, *edge) for edge in ancestry],
        "children": [other.id for other in history.runs.values() if run in history.parents_of(other)],
        "data": _data(history, list(line.values())),
        "weights": _weights(history, list(line.values())),
    }


def _ancestry(history: History, run: RunRecord) -> Iterator[tuple[dict[str, Any], RunRecord | None]]:
    """(one start from a file of another run, that run), nearest first, each start once."""
    queue, seen = [run], {run.id}
    while queue:
        child = queue.pop(0)
        for role, parent in origins(child).items():
            found = history.run_of(parent)
            yield {"run": parent.run, "of": child.id, "as": role, "loaded": parent.sha256}, found
            if found and found.id not in seen:
                seen.add(found.id)
                queue.append(found)


def _parent(history: History, start: dict[str, Any], found: RunRecord | None) -> dict[str, Any]:
    return start | {"is_gone": found is None} | (run_line(history, found) if found else {})


# ---- data


def _data(history: History, line: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Each snapshot that one of these runs trained on, the first run's first.

    Each has 'number', 'id', 'is_gone', 'runs' (that trained on it), 'ancestors' (see `parents_of`), 'subjects' (split
    -> labels) and 'sources': those with kept clips, the training split first, each with 'path', 'source_id', 'sha256',
    'subject', 'split', 'num_clips', 'is_taken_down'. Of a snapshot that is gone nothing but the line is known.
    """
    users: dict[str, list[RunRecord]] = {}
    for run in line:
        users.setdefault(run.key.snapshot, []).append(run)
    return [_held(history, runs) for runs in users.values()]


def _held(history: History, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """What the snapshot of these runs, which is one, held."""
    snapshot, number = history.snapshot_of(runs[0]), runs[0].snapshot_number
    sources = _sources(history, snapshot) if snapshot else []
    return {
        "number": number, "id": runs[0].key.snapshot, "is_gone": snapshot is None, "runs": [run.id for run in runs],
        "ancestors": parents_of(history, number), "subjects": _subjects(sources), "sources": sources,
    }  # fmt: skip


def _sources(history: History, snapshot: Snapshot) -> list[dict[str, Any]]:
    count = Counter((row["source_id"], row["split"]) for row in kept_clips(snapshot))
    done = {row["source_id"]: row for row in source_rows(snapshot) if row["state"] == State.DONE.value}
    found = [
        {name: done[source_id][name] for name in ("path", "source_id", "sha256", "subject")}
        | {"split": split, "num_clips": number}
        | {"is_taken_down": history.takedowns.of(done[source_id]["sha256"], source_id) is not None}
        for (source_id, split), number in count.items()
    ]
    return sorted(found, key=lambda source: (_SPLITS.index(source["split"]), source["path"]))


def _subjects(sources: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    return {
        split: found
        for split in _SPLITS
        if (found := sorted({source["subject"] for source in sources if source["split"] == split}))
    }


# ---- weights


def _weights(history: History, line: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Files of models/weights.toml by name: 'name', 'sha256', 'licence', 'is_noncommercial', 'used_by'.

    Used by runs, and by the steps that made their snapshots; an entry that is no longer listed has no licence here.
    """
    used: dict[tuple[str, str], list[str]] = {}
    for run in line:
        for name, digest in run.key.weights.items():
            used.setdefault((name, digest.removeprefix(_UNPINNED)), []).append(f"run {run.id}")
    for snapshot in {found.id: found for run in line if (found := history.snapshot_of(run))}.values():
        for name, digest in _data_weights(snapshot):
            used.setdefault((name, digest.removeprefix(_UNPINNED)), []).append(f"snapshot {snapshot.body.number}")
    return [_weight(name, digest, users) for (name, digest), users in sorted(used.items())]


def _data_weights(snapshot: Snapshot) -> set[tuple[str, str]]:
    """(name, digest) used in making a snapshot; all its shards are made by the same rules, so the first tells."""
    shards = snapshot.body.shards[:1]
    keys = [ref.key for shard in shards for ref in (shard.cut, *shard.features.values())]
    return {pair for key in keys for pair in snapshot.objects.manifest(key).key_inputs.get("weights", {}).items()}


def _weight(name: str, digest: str, users: Sequence[str]) -> dict[str, Any]:
    entry = weights.listed().get(name)
    return {
        "name": name,
        "sha256": digest,
        "licence": entry.licence if entry else "",
        "is_noncommercial": entry.is_noncommercial if entry else None,
        "used_by": list(users),
    }
