"""The training loop: steps, and between them figures, sample images, checkpoints and signals."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.training.engine.engine import Engine
from models.training.engine.errors import Interrupted, NonFinite, TrainingStopped
from models.training.evaluate import sample_image, validate
from models.training.runs.checkpoint import Identity, prune, save_checkpoint
from models.training.runs.metrics_log import MetricsLog
from models.training.runs.signals import noted_signals
from storage.errors import OutOfSpace


def train(engine: Engine, run: Path, identity: Identity, on_saved: Callable[[], None], is_quiet: bool = False) -> None:
    """Trains until the engine is done; the first rank logs and saves into the run's folder.

    Args:
        engine: at the step to begin with.
        run: folder of the run.
        identity: goes into the checkpoints.
        on_saved: called on the first rank after each checkpoint.
        is_quiet: without a progress bar.

    Raises:
        Interrupted: SIGTERM or SIGINT came; the state of the last step is saved.
        NonFinite: a loss is NaN or infinite; the state is kept as checkpoints/failed-state-<step>, for people to look
            at, and the next session resumes from the checkpoint before it.
        TrainingStopped: a worker that loads data died.
        OutOfSpace: a checkpoint did not fit; those before are intact.
    """
    try:
        _loop(engine, run, identity, on_saved, is_quiet)
    except NonFinite:
        tensors, plain = engine.state()
        if engine.ranks.is_first:
            with suppress(OutOfSpace):
                save_checkpoint(run, "failed-state", engine.step, identity, tensors, plain)
        raise
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):  # not killed, but an error in its code
            raise
        advice = "out of memory, or killed from outside; with a smaller train.num_workers it needs less"
        raise TrainingStopped(f"step {engine.step + 1}: {error} ({advice}); run again to resume") from error


def _loop(engine: Engine, run: Path, identity: Identity, on_saved: Callable[[], None], is_quiet: bool) -> None:
    config, saved_at = engine.config, time.monotonic()
    with ExitStack() as stack:
        signal_number = stack.enter_context(noted_signals())
        log = stack.enter_context(closing(MetricsLog(run, engine.step))) if engine.ranks.is_first else None
        bar = stack.enter_context(
            tqdm(
                initial=engine.step, total=engine.last_step, desc=run.name, unit="step",
                disable=is_quiet or not engine.ranks.is_first,
            )
        )  # fmt: skip
        if engine.is_done:  # killed between the last checkpoint and the end of the run
            _save(engine, run, identity, on_saved)
        for batch in engine.batches():
            engine.advance(batch)
            bar.total = engine.last_step
            bar.update()
            _report(engine, log, bar)
            is_late = engine.ranks.is_first and time.monotonic() - saved_at > config.save_every_s
            number, is_late = engine.ranks.largest([signal_number(), is_late])
            if _is_due(engine, config.save_every) or is_late or number:
                _save(engine, run, identity, on_saved)
                saved_at = time.monotonic()
            if number:
                raise Interrupted(int(number))


def _is_due(engine: Engine, every: int) -> bool:
    return engine.step % every == 0 or engine.is_done


def _report(engine: Engine, log: MetricsLog | None, bar: Any) -> None:
    """Logs what is due: means of the steps, validation, a sample image."""
    config, step, epoch = engine.config, engine.step, engine.sampler.epoch
    if _is_due(engine, config.log_every):
        means = engine.take_means()
        if log:
            log.scalars("train", step, epoch, means)
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
    if log and _is_due(engine, config.val_every) and engine.learner.val_set is not None:
        log.scalars("val", step, epoch, validate(engine))
    if log and _is_due(engine, config.image_every):
        image = sample_image(engine)
        if image is not None:
            log.image(step, image)


def _save(engine: Engine, run: Path, identity: Identity, on_saved: Callable[[], None]) -> None:
    engine.require_equal_ranks()
    tensors, plain = engine.state()
    if engine.ranks.is_first:
        save_checkpoint(run, "model", engine.step, identity, engine.exported())
        save_checkpoint(run, "state", engine.step, identity, tensors, plain)
        prune(run, engine.config.keep_last)
        on_saved()
    # A rank that ended before the first has saved would take it down: torchrun ends all when one fails.
    engine.ranks.wait()
