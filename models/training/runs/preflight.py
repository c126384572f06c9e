"""What is checked before a stage is fitted: one clear line now instead of a failure hours later."""

from collections.abc import Mapping
from pathlib import Path

from models.training.runs import checkpoint
from models.training.runs.published import Published
from models.training.stages import Stage
from storage.errors import ConfigError, PreflightError
from storage.runs import Continuation, RunRecord, load_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder


def require_parents(
    name: str, stage: Stage, parents: Mapping[str, RunRecord | Published]
) -> dict[str, RunRecord | Published]:
    """The finished runs that the stage starts from, or what stands in for them.

    Raises:
        ConfigError: one of PARENTS is missing or not finished.
    """
    for parent in stage.PARENTS:
        found = parents.get(parent)
        if found is None or (isinstance(found, RunRecord) and found.state != "done"):
            raise ConfigError(f"{name} starts from a finished run of stage {parent!r}; train that first")
    return {parent: parents[parent] for parent in stage.PARENTS}


def require_data(name: str, stage: Stage, snapshot: Snapshot) -> None:
    """Checks that the snapshot has what the stage learns from.

    Raises:
        PreflightError: a feature or every training clip is missing.
    """
    body = snapshot.body
    for feature in stage.FEATURES:
        if not all(feature in shard.features for shard in body.shards):
            why = body.skipped_features.get(feature, f"add it to the features of {body.dataset} in datasets.yaml")
            raise PreflightError(f"{name} needs feature {feature!r}, which snapshot {body.number} lacks: {why}")
    if not body.splits.get("train"):
        raise PreflightError(f"{name}: snapshot {body.number} of {body.dataset} keeps no clip of split 'train'")


def continuation(
    store: Path, snapshot: Snapshot, system: str, stage: str, run: str, is_change_allowed: bool
) -> Continuation:
    """The newest good state of another run, to go on from.

    Raises:
        ConfigError: there is no such run of this stage, it has no state, or it was trained on another snapshot and that
            is not allowed.
    """
    record = load_run(store, run)
    if record is None or (record.key.system, record.key.stage) != (system, stage):
        raise ConfigError(f"there is no run {run!r} of {system} {stage} to continue from")
    if record.key.snapshot != snapshot.id and not is_change_allowed:
        theirs = f"snapshot {record.snapshot_number} ({record.key.snapshot[:12]})"
        ours = f"snapshot {snapshot.body.number} ({snapshot.id[:12]})"
        how = "allow_dataset_change permits it, and is recorded"
        raise ConfigError(f"run {run} was trained on {theirs}, it does not continue on {ours}; {how}")
    found = checkpoint.load_state(run_folder(store, run))
    if found is None:
        raise ConfigError(f"run {run} has no state to continue from")
    return Continuation(run=run, snapshot=record.key.snapshot, sha256=found[0].sha256, step=found[0].step)
