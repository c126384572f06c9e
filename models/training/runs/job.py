"""Job: one stage to be fitted on one snapshot, with everything that is known before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.training.engine.config import StageConfig
from models.training.runs.card import DataFacts
from models.training.runs.checkpoint import Identity
from models.training.runs.published import Published
from models.training.stages import Stage
from storage.catalog import FaceCrop
from storage.keys import canonical_json, sha256_hex
from storage.runs import RunRecord, load_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder


@dataclass(frozen=True, slots=True)
class Job:
    """One call of models.training.runs.fit.fit_stage.

    Attributes:
        store, snapshot, stage, config: what is fitted on what.
        parents: stage -> what it starts from.
        new: the record as it is when nothing was done yet.
        data: what the model card will say of the snapshot.
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

    @property
    def identity(self) -> Identity:
        """What the run's checkpoints say they are."""
        key = self.new.key
        return Identity(
            run=self.new.id,
            snapshot=key.snapshot,
            config_sha256=sha256_hex(canonical_json(key.config)),
            parents={stage: parent.sha256 for stage, parent in key.parents.items()},
            code_version=self.new.code_version,
            face_crop=FaceCrop.of(self.snapshot.body.config),
        )
