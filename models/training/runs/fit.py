"""fit_stage: one stage of a system fitted on one snapshot; done once, resumed when it was cut short.

A run's id is the hash of what determines its result (storage/runs.py), so that asking again finds the run: it is
returned as it is when it is done, else training goes on at its newest good state. Started by torchrun, every process
calls fit_stage alike; the first one holds the run's lock and writes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from models.training import stages
from models.training.engine.config import StageConfig
from models.training.engine.distributed import Ranks, joined_ranks
from models.training.engine.engine import Engine
from models.training.evaluate import num_validated
from models.training.runs import checkpoint
from models.training.runs.card import CARD_FILE, data_facts, make_card, render
from models.training.runs.environment import choose_device, packages_sha256, reuse_large_blocks
from models.training.runs.job import Job
from models.training.runs.locks import exclusive, gpu_lock
from models.training.runs.loop import train
from models.training.runs.preflight import continuation, require_data, require_parents
from models.training.runs.published import Published, tensors_of
from models.training.runs.session import note_checkpoints, session
from storage import weights
from storage.errors import ConfigError
from storage.files import make_dir, replace_durable
from storage.runs import Parent, RunKey, RunRecord, load_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder

LOCK_FILE = "run.lock"


def fit_stage(
    store: Path, snapshot_id: str, system: str, stage: str, config: StageConfig, preset: str,
    parents: Mapping[str, RunRecord | Published], code_version: str, device: str = "auto", is_quiet: bool = False,
    allow_dataset_change: bool = False, continue_from: str | None = None,
) -> RunRecord:  # fmt: skip
    """Fits a stage, resumes it, or returns it when it is done.

    Args:
        store: folder of the store with the snapshot and the runs.
        snapshot_id: see storage.snapshot.Snapshot.open.
        system, stage: see models.training.stages.
        config: of the stage.
        preset: name it was made from, for people.
        parents: stage -> finished run, or what stands in for it, for each of the stage's PARENTS.
        code_version: of this package.
        device: see models.training.runs.environment.choose_device.
        is_quiet: without a progress bar.
        allow_dataset_change: the run of `continue_from` may have been trained on another snapshot.
        continue_from: id of a run of this stage whose newest state is begun with, instead of the first weights.

    Returns:
        The record of the finished run.

    Raises:
        ConfigError: no such snapshot, system, stage or device, a parent is missing, the batch does not fit the data, or
            `continue_from` does not fit.
        PreflightError: the snapshot lacks a feature, clips, or facts that the model card must state.
        WeightsError: a weight file is missing or wrong.
        LockedError: another process trains this run or uses the GPU.
        StoreCorrupt: a parent's model or the run's record is damaged.
        Interrupted, NonFinite, TrainingStopped, OutOfSpace: see models.training.runs.loop.train; run again to resume.
    """
    snapshot, chosen = Snapshot.open(store, snapshot_id), stages.find(system, stage)
    needed = require_parents(f"{system} {stage}", chosen, parents)
    require_data(f"{system} {stage}", chosen, snapshot)
    runs = {name: parent for name, parent in needed.items() if isinstance(parent, RunRecord)}
    stand_ins = {name: parent for name, parent in needed.items() if isinstance(parent, Published)}
    own_weights = {name: weights.fingerprint(name) for name in config.weights()}
    key = RunKey(
        system=system, stage=stage, stage_version=chosen.VERSION, snapshot=snapshot.id, config=config.key_config(),
        parents={name: Parent(run=run.id, sha256=run.model().sha256) for name, run in runs.items()},
        weights=own_weights | {parent.entry: parent.sha256 for parent in stand_ins.values()},
        published={name: parent.entry for name, parent in stand_ins.items()},
        continued_from=continuation(store, snapshot, system, stage, continue_from, allow_dataset_change)
        if continue_from else None,
    )  # fmt: skip
    new = RunRecord(
        id=key.run_id(), key=key, preset=preset, dataset=snapshot.body.dataset, snapshot_number=snapshot.body.number,
        ancestors=_ancestors(snapshot), code_version=code_version, packages_sha256=packages_sha256(),
        seed=config.train.seed,
    )  # fmt: skip
    job = Job(store, snapshot, chosen, config, needed, new, data_facts(snapshot), is_quiet)
    return _fit(job, joined_ranks(), device)


def _fit(job: Job, ranks: Ranks, wanted_device: str) -> RunRecord:
    if done := _finished(job, ranks):
        return done
    device = choose_device(wanted_device, ranks)
    if device.type == "cpu":
        reuse_large_blocks()
    with _run_lock(job) if ranks.is_first else nullcontext(), gpu_lock(device):
        # Another process may have finished it just before the lock was ours. Other ranks wait here for the first.
        if done := _finished(job, ranks):
            return done
        engine = _engine(job, ranks, device)
        resumed_from = _resume(job, engine)
        with session(job, engine, resumed_from) if ranks.is_first else nullcontext():
            train(engine, job.folder, job.identity, lambda: note_checkpoints(job), job.is_quiet)
            if ranks.is_first:
                _write_card(job, engine)
        ranks.wait()
        return job.record


def _finished(job: Job, ranks: Ranks) -> RunRecord | None:
    """The record when the run is done and its model is what it was; every rank gets the answer of the first."""
    found = load_run(job.store, job.new.id)
    is_done = found is not None and found.state == "done" and checkpoint.is_intact(job.folder, found.model())
    return found if ranks.first(is_done) else None


@contextmanager
def _run_lock(job: Job) -> Iterator[None]:
    make_dir(job.folder)
    refusal = f"run {job.new.id} is being trained by another process; wait for it or stop it"
    with exclusive(job.folder / LOCK_FILE, refusal):
        checkpoint.sweep(job.folder)
        yield


def _engine(job: Job, ranks: Ranks, device: torch.device) -> Engine:
    states = {name: tensors_of(job.store, parent) for name, parent in job.parents.items()}
    torch.manual_seed(job.config.train.seed)
    learner = job.stage.build(job.config, job.snapshot, states)
    try:
        return Engine(learner, job.config.train, ranks, device)
    except ValueError as error:
        raise ConfigError(f"{job.new.key.system} {job.new.key.stage}: {error}") from error


def _resume(job: Job, engine: Engine) -> str | None:
    """Brings the engine to the newest good state; SHA-256 of that state, None for the first weights."""
    own = _newest_state(job.folder, engine.ranks)
    if own:
        job.identity.require_same(own[0].identity)
        engine.restore(own[1], own[0].plain)
        return own[0].sha256
    start = job.new.key.continued_from
    if start is None:
        return None
    found = checkpoint.load_state(run_folder(job.store, start.run), start.step)
    if found is None or start.step >= engine.config.max_steps:
        raise ConfigError(f"run {start.run} has done {start.step} steps: set train.max_steps to more")
    engine.restore(found[1], found[0].plain, is_other_data=start.snapshot != job.snapshot.id)
    if engine.is_done:
        raise ConfigError(
            f"run {start.run} ended by itself after {start.step} steps; these settings leave it nothing to do"
        )
    return start.sha256


def _newest_state(folder: Path, ranks: Ranks) -> tuple[checkpoint.Sidecar, dict[str, Tensor]] | None:
    """The state that the first rank finds; the others load the same one."""
    found = checkpoint.load_state(folder) if ranks.is_first else None
    step = ranks.first(found[0].step if found else -1)
    return found if ranks.is_first or step < 0 else checkpoint.load_state(folder, step)


def _write_card(job: Job, engine: Engine) -> None:
    """Writes the model card.

    Raises:
        PreflightError: it lacks a field.
    """
    purpose, config = (job.stage.__doc__ or "").partition("\n")[0], engine.config
    num_measured = num_validated(engine) or config.batch_size * ((engine.step - 1) % config.log_every + 1)
    inherited = _weights_behind(job.store, job.new.key)
    card = make_card(job.record, job.data, purpose, engine.step, num_measured, inherited)
    replace_durable(job.folder / CARD_FILE, render(card).encode())


def _weights_behind(store: Path, key: RunKey) -> set[str]:
    """Entries of weights.toml that the runs it starts from were made with, and those behind them."""
    runs = [parent.run for parent in key.parents.values()]
    runs += [key.continued_from.run] if key.continued_from else []
    keys = [record.key for run in runs if (record := load_run(store, run))]
    return {name for found in keys for name in (*found.weights, *_weights_behind(store, found))}


def _ancestors(snapshot: Snapshot) -> tuple[str, ...]:
    """Ids of the snapshots before it, nearest first."""
    ids, current = list[str](), snapshot
    while current.body.parent:
        ids.append(current.body.parent)
        try:
            current = Snapshot.open(snapshot.store, current.body.parent)
        except ConfigError:  # collected by gc; what came before it cannot be told any more
            break
    return tuple(ids)
