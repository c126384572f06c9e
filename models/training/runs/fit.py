"""fit_stage: one stage of a system fitted on one snapshot; done once, resumed when it was cut short.

A run's id is the hash of what determines its result (storage/runs.py). Asking again therefore finds the run: a finished
one is returned as it is, else training resumes at its newest good state. Under torchrun every process calls fit_stage
alike; the first one holds the run's lock and writes.
"""

from contextlib import nullcontext

import torch

from models.training.engine.distributed import Ranks, joined_ranks
from models.training.engine.engine import Engine
from models.training.evaluate import num_validated
from models.training.runs import checkpoint
from models.training.runs.card import CARD_FILE, inherited_weights, make_card, render
from models.training.runs.environment import choose_device, reuse_large_blocks
from models.training.runs.job import FitRequest, Job, make_job
from models.training.runs.locks import gpu_lock, run_lock
from models.training.runs.loop import train
from models.training.runs.published import tensors_of
from models.training.runs.session import note_checkpoints, session
from storage.errors import ConfigError
from storage.files import replace_durable
from storage.runs import RunRecord, load_run
from storage.store_layout import run_folder


def fit_stage(request: FitRequest) -> RunRecord:
    """Fits a stage, resumes it, or returns its run when it is done.

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
    job, ranks = make_job(request), joined_ranks()
    if done := _finished(job, ranks):
        return done
    device = choose_device(request.device, ranks)
    if device.type == "cpu":
        reuse_large_blocks()
    with run_lock(job.folder) if ranks.is_first else nullcontext(), gpu_lock(device):
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
    """The record when the run is done and its model file is intact; the first rank decides for all."""
    found = load_run(job.store, job.new.id)
    is_done = found is not None and found.state == "done" and checkpoint.is_intact(job.folder, found.model())
    return found if ranks.first(is_done) else None


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
    ranks = engine.ranks
    own = checkpoint.load_state(job.folder) if ranks.is_first else None
    step = ranks.first(own[0].step if own else -1)
    if step >= 0 and not ranks.is_first:  # all ranks load the state that the first one has found
        own = checkpoint.load_state(job.folder, step)
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


def _write_card(job: Job, engine: Engine) -> None:
    """Writes the model card.

    Raises:
        PreflightError: it lacks a field.
    """
    purpose, config = (job.stage.__doc__ or "").partition("\n")[0], engine.config
    num_measured = num_validated(engine) or config.batch_size * ((engine.step - 1) % config.log_every + 1)
    inherited = inherited_weights(job.store, job.new.key)
    card = make_card(job.record, job.data, purpose, engine.step, num_measured, inherited)
    replace_durable(job.folder / CARD_FILE, render(card).encode())
