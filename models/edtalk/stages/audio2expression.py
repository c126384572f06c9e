"""Stage 5: expression codes from an emotion with its intensity, from audio, or from both (never released).

The expression codes of all frames come from the generator of stage 2. The codes of emotions follow from them without
training; the contribution of the audio is trained: squared errors of the codes and of their changes from frame to
frame, from audio alone and from both (clips without a known emotion do not count).
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.utils.data import Dataset

from models.data.collate import PadCollate
from models.data.landmark_motion import masked_squares
from models.edtalk.data.code_windows import Windows, audio_windows, code_scale
from models.edtalk.networks.expression_predictor import (
    ExpressionPredictor,
    Expressions,
    emotion_table,
    emotion_vector,
    intensity_of,
)
from models.edtalk.networks.shape import SMALL, Shape
from models.edtalk.networks.speech_encoder import SpeechSize
from models.edtalk.training.code_plot import code_curves
from models.edtalk.weights.parent_state import edtalk_of
from models.training.engine.config import StageConfig, TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from storage.errors import ConfigError
from storage.snapshot import Snapshot

VERSION = 2
PARENT = "expression"
PARENTS: tuple[str, ...] = (PARENT,)
FEATURES: tuple[str, ...] = ("mel", "landmarks")

MIN_FRAMES = 2


class Config(StageConfig):
    """Settings of the stage.

    Attributes:
        speech: sizes of the audio encoder.
        shape: sizes of the generator, those of the parent.
        num_frames: length of the windows; shorter clips are padded.
        learning_rate: Adam's learning rate.
        change_weight: weight of the squared errors of the codes' changes from frame to frame.
    """

    speech: SpeechSize = SpeechSize()
    shape: Shape = Shape()
    num_frames: PositiveInt = 50
    learning_rate: PositiveFloat = 3e-4
    change_weight: NonNegativeFloat = 0.1


PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(
            train=TrainConfig(max_steps=30, batch_size=2, log_every=5, val_every=30, image_every=30, save_every=30),
            speech=SpeechSize(width=16, num_layers=2),
            shape=SMALL,
            num_frames=24,
            learning_rate=1e-3,
        ),
        "paper": Config(train=TrainConfig(max_steps=40_000, batch_size=32, num_workers=4, val_batches=8)),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "Audio2ExpressionLearner":
    """The learner on the clips of the splits 'train' and 'val' that have audio of their own and show a face.

    Raises:
        ConfigError: a feature is missing, or there is no such clip to train on.
        WeightsError: the parent has another shape.
    """
    generator = edtalk_of(parents[PARENT], config.shape, PARENT)
    if not generator.has_expression:
        raise ConfigError(f"the model of stage {PARENT!r} has no expression bank; train that stage again")
    windows = audio_windows(generator, snapshot, ("expression",), config.num_frames, MIN_FRAMES, config.train)
    train = windows.train
    table = emotion_table(train.codes, train.labels("emotion"), train.labels("level"))
    network = ExpressionPredictor(code_scale(train.codes), config.speech, table)
    return Audio2ExpressionLearner(config, network, windows)


class Audio2ExpressionLearner:
    """Trains one module, 'expression' (an ExpressionPredictor); see learner.Learner for the attributes."""

    def __init__(self, config: Config, network: ExpressionPredictor, windows: Windows) -> None:
        self._change_weight = config.change_weight
        self.modules: Modules = {"expression": network}
        self.optimizers: Mapping[str, Optimizer] = {"expression": Adam(network.parameters(), lr=config.learning_rate)}
        self.averaged: tuple[str, ...] = ("expression",)
        self.exported: tuple[str, ...] = self.averaged
        self.train_set: Dataset[Any] = windows.train
        self.val_set: Dataset[Any] | None = windows.val
        self.collate: Callable[[Sequence[Any]], Batch] = PadCollate({})

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """One step; mean squared errors of the codes from audio (`heard`) and from emotion and audio (`both`)."""
        with trainer.autocast():
            output: Expressions = trainer.module("expression")(emotion_vectors(batch), batch["mel"], batch["inside"])
        terms = squares_of(output, batch)
        loss = sum(squares + self._change_weight * changes for squares, changes in terms.values())
        trainer.update("expression", cast(Tensor, loss))
        return {name: squares.detach() for name, (squares, _) in terms.items()}

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Mean squared errors of the codes from the emotion (`felt`), from audio (`heard`) and from both.

        `still` is the error of the mean of the training data, which a model has to beat. Where the emotion is unknown,
        `felt` is the neutral expression.
        """
        network, inside = _network(modules), batch["inside"]
        output = network(emotion_vectors(batch), batch["mel"], inside)
        outputs = {
            "felt": output.from_emotion, "heard": output.from_audio, "both": output.both,
            "still": network.scale.mean.expand_as(batch["codes"]),
        }  # fmt: skip
        return {name: masked_squares(codes, batch["codes"], inside)[0] for name, codes in outputs.items()}

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Curves of the true codes, and of those from emotion and audio."""
        output = _network(modules)(emotion_vectors(batch), batch["mel"], batch["inside"])
        return code_curves(batch["codes"], output.both, batch["inside"])


def emotion_vectors(batch: Batch) -> Tensor:
    """[B, K, 8] the clips' emotion vectors, the same in all frames."""
    vectors = emotion_vector(batch["emotion"], intensity_of(batch["level"]))
    return vectors[:, None].expand(-1, batch["codes"].shape[1], -1)


def squares_of(output: Expressions, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """Squared error of the codes and of their changes; clips of unknown emotion count for the audio alone."""
    inside = batch["inside"]
    counted = {
        "heard": (output.from_audio, inside),
        "both": (output.both, inside & (batch["emotion"] >= 0)[:, None]),
    }
    return {name: masked_squares(codes, batch["codes"], mask) for name, (codes, mask) in counted.items()}


def _network(modules: Modules) -> ExpressionPredictor:
    return cast(ExpressionPredictor, modules["expression"])
