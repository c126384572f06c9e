"""Stage 4: head motion from audio, by a normalising flow over pose codes (never released).

The pose codes of all frames come from the generator of stage 1. The loss is the negative logarithm of the likelihood of
each frame's pose, given those before it and the audio.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.utils.data import Dataset

from models.data.collate import PadCollate
from models.data.landmark_motion import decayed_rate, masked_mean
from models.edtalk.data.code_windows import Windows, audio_windows
from models.edtalk.networks.pose_flow import PoseFlow, PoseFlowSize, pose_noise, pose_statistics
from models.edtalk.networks.shape import SMALL, Shape
from models.edtalk.networks.speech_encoder import SpeechSize
from models.edtalk.training.code_plot import code_curves
from models.edtalk.weights.parent_state import edtalk_of
from models.training.engine.config import StageConfig, TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from storage.snapshot import Snapshot

VERSION = 2
PARENT = "mouth_pose"
PARENTS: tuple[str, ...] = (PARENT,)
FEATURES: tuple[str, ...] = ("mel", "landmarks")

MIN_FRAMES = 3


class Config(StageConfig):
    """Settings of the stage.

    Attributes:
        flow: sizes of the flow.
        shape: sizes of the generator, those of the parent.
        num_frames: length of the windows; shorter clips are padded.
        learning_rate: Adam's learning rate after `warmup_steps`; it falls to a tenth every `decay_steps`.
    """

    flow: PoseFlowSize = PoseFlowSize()
    shape: Shape = Shape()
    num_frames: int = Field(default=100, ge=MIN_FRAMES)
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: PositiveInt = 200
    decay_steps: PositiveInt = 40_000


PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(
            train=TrainConfig(max_steps=30, batch_size=2, log_every=5, val_every=30, image_every=30, save_every=30),
            flow=PoseFlowSize(speech=SpeechSize(width=16, num_layers=2), num_history=6, num_flows=2, num_hidden=8),
            shape=SMALL,
            num_frames=24,
            warmup_steps=5,
        ),
        "paper": Config(
            train=TrainConfig(max_steps=40_000, batch_size=64, grad_clip=1.0, num_workers=4, val_batches=8)
        ),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "Audio2PoseLearner":
    """The learner on the clips of the splits 'train' and 'val' that have audio of their own and show a face.

    Raises:
        ConfigError: a feature is missing, there is no such clip to train on, or the number of pose codes is odd.
        WeightsError: the parent has another shape.
    """
    generator = edtalk_of(parents[PARENT], config.shape, PARENT)
    windows = audio_windows(generator, snapshot, ("pose",), config.num_frames, MIN_FRAMES, config.train)
    return Audio2PoseLearner(config, windows)


class Audio2PoseLearner:
    """Trains one module, 'pose_flow' (a PoseFlow); see models.training.engine.learner.Learner for the attributes."""

    def __init__(self, config: Config, windows: Windows) -> None:
        self._config = config
        flow = PoseFlow(pose_statistics(windows.train.codes), config.flow)
        self.modules: Modules = {"pose_flow": flow}
        self.optimizers: Mapping[str, Optimizer] = {"pose_flow": Adam(flow.parameters(), lr=config.learning_rate)}
        self.averaged: tuple[str, ...] = ("pose_flow",)
        self.exported: tuple[str, ...] = self.averaged
        self.train_set: Dataset[Any] = windows.train
        self.val_set: Dataset[Any] | None = windows.val
        self.collate: Callable[[Sequence[Any]], Batch] = PadCollate({})

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """One step; `nats` is the loss, per number."""
        config = self._config
        rate = decayed_rate(config.learning_rate, trainer.step, config.warmup_steps, config.decay_steps)
        self.optimizers["pose_flow"].param_groups[0]["lr"] = rate
        with trainer.autocast():
            density = trainer.module("pose_flow")(motion_of(batch), batch["mel"], batch["inside"])
        loss = nats(density, batch)
        trainer.update("pose_flow", loss)
        return {"nats": loss.detach(), "rate": torch.tensor(rate)}

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """`nats` of the likelihood, and figures of sampled motion beside the true one.

        `spread` is the distance of heads from their rest, `speed` that from frame to frame (root mean squares over the
        codes, each in units of its usual spread). `spread_ratio` and `speed_ratio` are those of the samples divided by
        those of the clips; 1 is the goal.
        """
        flow, motion, inside = _flow(modules), motion_of(batch), batch["inside"]
        figures = {"nats": nats(flow(motion, batch["mel"], inside), batch)}
        true, drawn = _moments(flow.scale(motion), inside), _moments(flow.scale(_sampled(flow, batch)), inside)
        for name, value in true.items():
            figures |= {name: value, f"{name}_ratio": drawn[name] / value.clamp_min(1e-6)}
        return figures

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Curves of the true motion, and of motion sampled for the same audio."""
        return code_curves(motion_of(batch), _sampled(_flow(modules), batch), batch["inside"])


def motion_of(batch: Batch) -> Tensor:
    """[B, K, 6] pose codes less their mean over the clip."""
    return batch["codes"] - batch["mean"][:, None]


def nats(density: Tensor, batch: Batch) -> Tensor:
    """Mean negative logarithm of the likelihood per code and frame, over the frames inside after the first."""
    return -masked_mean(density, batch["inside"][:, 1:]) / batch["codes"].shape[-1]


def _sampled(flow: PoseFlow, batch: Batch) -> Tensor:
    """[B, K, 6] sampled motion with the clips' first frames."""
    motion, inside = motion_of(batch), batch["inside"]
    num_clips, num_frames, num_codes = motion.shape
    noise = pose_noise(num_clips, num_frames, num_codes).to(motion.device)
    return flow.sample(flow.speech(batch["mel"], inside), noise, motion[:, 0])


def _moments(motion: Tensor, inside: Tensor) -> dict[str, Tensor]:
    steps = motion[:, 1:] - motion[:, :-1]
    squares = {"spread": (motion.square(), inside), "speed": (steps.square(), inside[:, 1:])}
    return {name: masked_mean(values, mask).sqrt() for name, (values, mask) in squares.items()}


def _flow(modules: Modules) -> PoseFlow:
    return cast(PoseFlow, modules["pose_flow"])
