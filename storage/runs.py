"""Run records: inputs and results of a training run; lineage and the gate read nothing else.

    <store>/runs/<run id>/run.json         the record, replaced whole at every change
    <store>/runs/<run id>/checkpoints/     see models.training.runs.checkpoint
    <store>/pins/<run id>                  id of the snapshot it trained on, which gc then keeps

A run is one stage fitted on one snapshot. Its id ends in the first digits of its key, the hash of everything that
determines the result, so that asking for the same thing again finds the same run: finished (skip) or not (resume).
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import StoreCorrupt
from storage.files import make_dir, replace_durable
from storage.keys import canonical_json, sha256_hex
from storage.store_layout import pin_file, pins_folder, run_folder, runs_folder

RECORD_FILE = "run.json"
RunState = Literal["running", "done", "interrupted", "failed"]


class Strict(BaseModel):
    """Base of the parts of a record: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Checkpoint(Strict):
    """One file a run has written.

    Attributes:
        file: relative to the run's folder.
        kind: 'state' is all that resuming needs, 'model' what inference and later stages load.
        step: optimiser steps done.
        sha256, num_bytes: of the file.
    """

    file: str
    kind: Literal["state", "model"]
    step: int
    sha256: str
    num_bytes: int


class Parent(Strict):
    """The checkpoint of an earlier stage that a run started from.

    Attributes:
        run: id of its run.
        sha256: of the 'model' file.
    """

    run: str
    sha256: str


class Continuation(Strict):
    """The training state of another run that a run went on from, instead of from its first weights.

    Attributes:
        run, snapshot: id of that run and of the data it was trained on; other data than the run's own are allowed only
            explicitly, and are recorded here.
        sha256, step: of its 'state' file.
    """

    run: str
    snapshot: str
    sha256: str
    step: int


class Session(Strict):
    """One stretch of training, from start or resume to its end; together they are the resume chain.

    Attributes:
        started_at, ended_at: UTC, ISO 8601; None while it runs or when it was killed outright.
        first_step, last_step: optimiser steps done before and after.
        resumed_from: SHA-256 of the 'state' file it began with; None for the first weights.
        num_ranks: processes.
        hardware: device, its name, cores, GiB.
        code_version: of this package in this session.
        exit_reason: 'done', 'interrupted: SIGTERM', 'failed: ...'; None as ended_at.
    """

    started_at: str
    ended_at: str | None = None
    first_step: int
    last_step: int | None = None
    resumed_from: str | None = None
    num_ranks: int = 1
    hardware: dict[str, Any]
    code_version: str = ""
    exit_reason: str | None = None


class RunKey(Strict):
    """What determines a run's result, and so its id.

    Attributes:
        system, stage, stage_version: what is trained; the version is raised by hand when the stage computes other
            numbers.
        snapshot: id of the data.
        config: resolved hyper-parameters.
        parents: stage -> checkpoint it starts from.
        weights: entry of weights.toml -> sha256.
        published: stage -> the one of `weights` that stood in for a run of it.
        continued_from: see Continuation; None for a run that starts from its first weights.
    """

    system: str
    stage: str
    stage_version: int
    snapshot: str
    config: dict[str, Any]
    parents: dict[str, Parent] = {}
    weights: dict[str, str] = {}
    published: dict[str, str] = {}
    continued_from: Continuation | None = None

    def run_id(self) -> str:
        """`<system>-<stage>-<12 hex digits>`."""
        return f"{self.system}-{self.stage}-{self.digest()[:12]}"

    def digest(self) -> str:
        """SHA-256 of the canonical JSON; of what it starts from only the bytes count, not the run they came from."""
        content = self.model_dump(mode="json")
        content["parents"] = {stage: parent.sha256 for stage, parent in self.parents.items()}
        content["continued_from"] = self.continued_from and self.continued_from.sha256
        if not self.published:
            del content["published"]  # ids made before there was such a thing stay
        return sha256_hex(canonical_json(content))


class RunRecord(Strict):
    """One run, whole.

    Attributes:
        id: see RunKey.run_id.
        key: what determines it.
        preset: name the config was made from, 'smoke', 'paper', ...
        dataset, snapshot_number: of the snapshot, for people.
        ancestors: ids of the snapshot's parents, nearest first.
        code_version: of this package.
        packages_sha256: of the sorted list of installed distributions.
        seed: of every random choice.
        state: 'running' also means killed; `models.training.runs.fit` distinguishes the two by the run's lock.
        sessions: first to last.
        checkpoints: those that exist, oldest first.
        metrics: last validation figures.
    """

    schema_version: int = 1
    id: str
    key: RunKey
    preset: str
    dataset: str
    snapshot_number: int
    ancestors: tuple[str, ...]
    code_version: str
    packages_sha256: str
    seed: int
    state: RunState = "running"
    sessions: tuple[Session, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    metrics: dict[str, float] = {}

    def model(self) -> Checkpoint:
        """The newest 'model' file.

        Raises:
            StoreCorrupt: the run has none.
        """
        found = [checkpoint for checkpoint in self.checkpoints if checkpoint.kind == "model"]
        if not found:
            raise StoreCorrupt(f"run {self.id} ({self.state}) has written no model; train it to the end")
        return found[-1]


def save_run(store: Path, record: RunRecord) -> None:
    """Writes the record and pins its snapshot; after a crash the record is the old or the new one, whole."""
    folder = run_folder(store, record.id)
    for path in (folder, pins_folder(store)):
        make_dir(path)
    replace_durable(pin_file(store, record.id), record.key.snapshot.encode())
    content = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    replace_durable(folder / RECORD_FILE, content.encode())


def load_run(store: Path, run_id: str) -> RunRecord | None:
    """The record of a run, None when there is none.

    Raises:
        StoreCorrupt: the file is not a record.
    """
    path = run_folder(store, run_id) / RECORD_FILE
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StoreCorrupt(f"{path}: not a run record: {error}; remove the folder and train again") from None


def list_runs(store: Path) -> list[RunRecord]:
    """Every run of a store, by the start of its last session."""
    found = [load_run(store, path.parent.name) for path in runs_folder(store).glob(f"*/{RECORD_FILE}")]
    return sorted((run for run in found if run), key=lambda run: run.sessions[-1].started_at if run.sessions else "")
