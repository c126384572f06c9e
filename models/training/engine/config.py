"""TrainConfig: settings of the engine, the same for every stage; StageConfig: base of the settings of a stage."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

# Settings that may differ between two sessions of one run: none of them changes a weight or a metric.
_HOUSEKEEPING = {"num_workers", "log_every", "image_every", "save_every", "save_every_s", "keep_last"}


class TrainConfig(BaseModel):
    """Settings of the engine.

    Attributes:
        max_steps: calls of the learner's `train_step`; fewer when the learner is finished earlier.
        batch_size: items per step, of all processes together; a multiple of their number.
        seed: of the first weights, the order of the data and every random choice.
        precision: 'bf16' and 'fp16' run the operations inside `trainer.autocast()` in that type; weights stay float32.
        grad_clip: largest 2-norm of the gradients of one optimiser; None does not clip.
        ema_decay: of the averaged copies; at step t it is min(ema_decay, (1 + t) / (10 + t)), so that the initial
            weights soon lose their influence. 0 makes the copies equal to the weights.
        num_workers: processes that load data, per rank; 0 loads in the training process.
        log_every: steps per line of metrics.jsonl, which holds their means.
        val_every: steps between validations; there is always one at the end.
        val_batches: batches per validation; None is all of them.
        image_every: steps between sample images; there is always one at the end.
        save_every: steps between checkpoints; there is always one at the end.
        save_every_s: seconds after which a checkpoint is due, whatever the number of steps.
        keep_last: checkpoints that are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_steps: PositiveInt
    batch_size: PositiveInt
    seed: NonNegativeInt = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    grad_clip: PositiveFloat | None = None
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    num_workers: NonNegativeInt = 0
    log_every: PositiveInt = 50
    val_every: PositiveInt = 1000
    val_batches: PositiveInt | None = None
    image_every: PositiveInt = 1000
    save_every: PositiveInt = 1000
    save_every_s: NonNegativeFloat = 600
    keep_last: PositiveInt = 3


class StageConfig(BaseModel):
    """Base of every stage's Config: its own hyper-parameters beside `train`. Immutable, unknown keys rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainConfig

    def weights(self) -> tuple[str, ...]:
        """Entries of storage/weights.toml that a stage with these settings cannot do without."""
        return ()

    def key_config(self) -> dict[str, Any]:
        """The settings that determine the result, and so the id of the run, as JSON."""
        return self.model_dump(mode="json", exclude={"train": _HOUSEKEEPING})
