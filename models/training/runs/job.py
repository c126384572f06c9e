"""FitRequest: one stage to be fitted on one snapshot; Job: the same checked and resolved against the store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.training import stages
from models.training.engine.config import StageConfig
from models.training.runs import checkpoint
from models.training.runs.card import DataFacts, data_facts
from models.training.runs.checkpoint import Identity
from models.training.runs.environment import packages_sha256
from models.training.runs.published import Published
from models.training.stages import Stage
from storage import weights
from storage.catalog import FaceCrop
from storage.errors import ConfigError, PreflightError
from storage.keys import canonical_json, sha256_hex
from storage.runs import Continuation, Parent, RunKey, RunRecord, load_run, save_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder


@dataclass(frozen=True, slots=True)
class FitRequest:
    """Arguments of models.training.runs.fit.fit_stage.

    Attributes:
        store: folder of the store with the snapshot and the runs.
        snapshot: id, number or 'latest', see storage.snapshot.Snapshot.open.
        system, stage: see models.training.stages.
        config: settings of the stage.
        preset: name of the preset that the settings were made from, for people.
        parents: stage -> finished run, or published weights in its place, for each of the stage's PARENTS.
        code_version: version of this package.
        device: see models.training.runs.environment.choose_device.
        is_quiet: without a progress bar.
        continue_from: id of a run of this stage whose newest state training begins with, instead of new weights.
        allow_dataset_change: whether the run of `continue_from` may have been trained on another snapshot.
    """

    store: Path
    snapshot: str
    system: str
    stage: str
    config: StageConfig
    preset: str
    parents: Mapping[str, RunRecord | Published]
    code_version: str
    device: str = "auto"
    is_quiet: bool = False
    continue_from: str | None = None
    allow_dataset_change: bool = False

    @property
    def name(self) -> str:
        """System and stage, for messages."""
        return f"{self.system} {self.stage}"


@dataclass(frozen=True, slots=True)
class Job:
    """A FitRequest whose parents, data and weights are there; everything that is known before training.

    Attributes:
        store, snapshot, stage, config: what is fitted on what.
        parents: stage -> what it starts from.
        new: the record before anything is done.
        data: what the model card will state about the snapshot.
        is_quiet: without a progress bar.
    """

    store: Path
    snapshot: Snapshot
    stage: Stage
    config: StageConfig
    parents: Mapping[str, RunRecord | Published]
    new: RunRecord
    data: DataFacts
    is_quiet: bool

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return run_folder(self.store, self.new.id)

    @property
    def record(self) -> RunRecord:
        """The record as it is now."""
        return load_run(self.store, self.new.id) or self.new

    def update(self, **changes: Any) -> None:
        """Saves the record with other values of some fields."""
        save_run(self.store, self.record.model_copy(update=changes))

    @property
    def identity(self) -> Identity:
        """Identity of the run's checkpoints."""
        key = self.new.key
        return Identity(
            run=self.new.id,
            snapshot=key.snapshot,
            config_sha256=sha256_hex(canonical_json(key.config)),
            parents={stage: parent.sha256 for stage, parent in key.parents.items()},
            code_version=self.new.code_version,
            face_crop=FaceCrop.of(self.snapshot.body.config),
        )


def make_job(request: FitRequest) -> Job:
    """Checks what a stage needs, so that one line now replaces a failure hours later, and derives the run's id.

    Raises:
        ConfigError: no such snapshot, system or stage, a parent is missing, or `continue_from` does not fit.
        PreflightError: the snapshot lacks a feature, clips, or facts that the model card must state.
        WeightsError: a weight file is missing or wrong.
    """
    snapshot, stage = Snapshot.open(request.store, request.snapshot), stages.find(request.system, request.stage)
    needed = _parents(request, stage)
    _require_data(request.name, stage, snapshot)
    runs = {name: parent for name, parent in needed.items() if isinstance(parent, RunRecord)}
    stand_ins = {name: parent for name, parent in needed.items() if isinstance(parent, Published)}
    own_weights = {name: weights.fingerprint(name) for name in request.config.weights()}
    key = RunKey(
        system=request.system,
        stage=request.stage,
        stage_version=stage.VERSION,
        snapshot=snapshot.id,
        config=request.config.key_config(),
        parents={name: Parent(run=run.id, sha256=run.model().sha256) for name, run in runs.items()},
        weights=own_weights | {parent.entry: parent.sha256 for parent in stand_ins.values()},
        published={name: parent.entry for name, parent in stand_ins.items()},
        continued_from=_continuation(request, snapshot, request.continue_from) if request.continue_from else None,
    )
    new = RunRecord(
        id=key.run_id(),
        key=key,
        preset=request.preset,
        dataset=snapshot.body.dataset,
        snapshot_number=snapshot.body.number,
        ancestors=_ancestors(snapshot),
        code_version=request.code_version,
        packages_sha256=packages_sha256(),
        seed=request.config.train.seed,
    )
    return Job(request.store, snapshot, stage, request.config, needed, new, data_facts(snapshot), request.is_quiet)


def _parents(request: FitRequest, stage: Stage) -> Mapping[str, RunRecord | Published]:
    """The finished runs that the stage starts from, or what stands in for them."""
    for parent in stage.PARENTS:
        found = request.parents.get(parent)
        if found is None or (isinstance(found, RunRecord) and found.state != "done"):
            raise ConfigError(f"{request.name} starts from a finished run of stage {parent!r}; train that first")
    return {parent: request.parents[parent] for parent in stage.PARENTS}


def _require_data(name: str, stage: Stage, snapshot: Snapshot) -> None:
    body = snapshot.body
    for feature in stage.FEATURES:
        if not all(feature in shard.features for shard in body.shards):
            why = body.skipped_features.get(feature, f"add it to the features of {body.dataset} in datasets.yaml")
            raise PreflightError(f"{name} needs feature {feature!r}, which snapshot {body.number} lacks: {why}")
    if not body.splits.get("train"):
        raise PreflightError(f"{name}: snapshot {body.number} of {body.dataset} keeps no clip of split 'train'")


def _continuation(request: FitRequest, snapshot: Snapshot, run: str) -> Continuation:
    """The newest good state of the run that is continued."""
    record = load_run(request.store, run)
    if record is None or (record.key.system, record.key.stage) != (request.system, request.stage):
        raise ConfigError(f"there is no run {run!r} of {request.name} to continue from")
    if record.key.snapshot != snapshot.id and not request.allow_dataset_change:
        theirs = f"snapshot {record.snapshot_number} ({record.key.snapshot[:12]})"
        ours = f"snapshot {snapshot.body.number} ({snapshot.id[:12]})"
        how = "allow_dataset_change permits it, and is recorded"
        raise ConfigError(f"run {run} was trained on {theirs}, it does not continue on {ours}; {how}")
    found = checkpoint.load_state(run_folder(request.store, run))
    if found is None:
        raise ConfigError(f"run {run} has no state to continue from")
    return Continuation(run=run, snapshot=record.key.snapshot, sha256=found[0].sha256, step=found[0].step)


def _ancestors(snapshot: Snapshot) -> tuple[str, ...]:
    """Ids of the snapshots before it, nearest first."""
    ids, current = list[str](), snapshot
    while current.body.parent:
        ids.append(current.body.parent)
        try:
            current = Snapshot.open(snapshot.store, current.body.parent)
        except ConfigError:  # collected by gc, and with it the ids of the snapshots before it
            break
    return tuple(ids)
