"""One session of a run in its record: opened, kept up to date at every checkpoint, closed with the reason it ended."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime

from models.training.engine.engine import Engine
from models.training.runs.checkpoint import list_checkpoints
from models.training.runs.environment import hardware
from models.training.runs.job import Job
from models.training.runs.metrics_log import newest_figures
from storage.errors import OutOfSpace, error_text
from storage.runs import Session


@contextmanager
def session(job: Job, engine: Engine, resumed_from: str | None) -> Iterator[None]:
    """Opens a session and closes it however the block ends, as far as the disk allows. For the first rank.

    Args:
        job: whose record it is written to.
        engine: at the step to begin with.
        resumed_from: SHA-256 of the state it begins with, None for the first weights.
    """
    opened = Session(
        started_at=_now(), first_step=engine.step, resumed_from=resumed_from, num_ranks=engine.ranks.num,
        hardware=hardware(engine.device), code_version=job.new.code_version,
    )  # fmt: skip
    job.update(
        state="running", sessions=(*job.record.sessions, opened), code_version=job.new.code_version,
        packages_sha256=job.new.packages_sha256, checkpoints=list_checkpoints(job.folder),
    )  # fmt: skip
    state, reason = "done", "done"
    try:
        yield
    except Exception as error:
        state, reason = "failed", f"failed: {error_text(error)}"
        raise
    except BaseException as error:
        state, reason = "interrupted", f"interrupted: {str(error) or type(error).__name__}"
        raise
    finally:
        *before, last = job.record.sessions
        closed = last.model_copy(update={"ended_at": _now(), "last_step": engine.step, "exit_reason": reason})
        # On a full disk the error that ended the session matters, not that it could not be recorded.
        with nullcontext() if state == "done" else suppress(OutOfSpace):
            job.update(state=state, sessions=(*before, closed))


def note_checkpoints(job: Job) -> None:
    """Brings checkpoints and figures of the record up to date."""
    job.update(checkpoints=list_checkpoints(job.folder), metrics=newest_figures(job.folder))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
