"""Emotion: the residual that a label and an intensity add to neutral face motion (TemporalResidual or ResAtt MLP).

RealTalk (arXiv 2508.12163) learns it from single frames of a neutral and an emotional take by squared error; Adam 5e-4
with warm-up, batches of 32, 40,000 steps. Here pairs are whole takes (see EmotionPairs), and the velocity counts too.
The classifier and lip-sync losses that need networks of their own are not part of it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from models.data.clip_dataset import ClipFilter, validation_set
from models.data.collate import PadCollate
from models.data.landmark_motion import decayed_rate, masked_mean, masked_squares
from models.data.motion_clips import AudioChoice, MotionClips, audio_column
from models.realtalk.emotion_pairs import NEUTRAL, EmotionPairs, Pairing, measure
from models.realtalk.emotion_residual import NeutralSpeech, ResAttResidual, Scales, TemporalResidual
from models.training.engine.config import StageConfig, TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from models.training.landmark_plot import landmark_sheet
from storage.emotions import EMOTIONS
from storage.snapshot import Snapshot

VERSION = 1
PARENTS: tuple[str, ...] = ()
FEATURES = ("face3d", "mel50")


class Config(StageConfig):
    """Settings of the stage.

    Attributes:
        model: 'temporal', or 'resatt', the published network.
        audio: feature that represents the audio; 'auto' is hubert where the snapshot holds it, else mel50.
        num_frames: length of the windows; shorter clips are padded.
        num_layers: of the temporal model.
        pairing: 'auto' warps takes that say the same sentence onto each other and carries over statistics of the
            others; 'warp' and 'statistics' do one of the two to all.
        same_below: likeness (see models.realtalk.alignment) below which two takes say the same.
        num_statistics_items: pairs from which the scales are taken.
        learning_rate: of Adam, after `warmup_steps`; it falls to a tenth every `decay_steps`.
        velocity_weight: of the squared error of the velocity; that of the residual itself has weight 1.
    """

    model: Literal["temporal", "resatt"] = "temporal"
    audio: AudioChoice = "auto"
    num_frames: PositiveInt = 100
    num_layers: PositiveInt = 4
    pairing: Pairing = "auto"
    same_below: PositiveFloat = 0.7
    num_statistics_items: PositiveInt = 512
    learning_rate: PositiveFloat = 5e-4
    warmup_steps: PositiveInt = 1000
    decay_steps: PositiveInt = 250_000
    velocity_weight: NonNegativeFloat = 1.0


PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(
            train=TrainConfig(max_steps=100, batch_size=4, log_every=10, val_every=50, image_every=50, save_every=50),
            num_frames=48,
            num_layers=2,
            warmup_steps=10,
        ),
        "paper": Config(train=TrainConfig(max_steps=40_000, batch_size=32, num_workers=4, val_batches=32)),
        # as published: single frames, the weights of ResAttLandmarkDeformationModel, squared error only
        "published": Config(
            train=TrainConfig(max_steps=40_000, batch_size=32, num_workers=4, val_batches=32),
            model="resatt",
            velocity_weight=0.0,
        ),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "EmotionLearner":
    """The learner on the clips that have one of the eight emotions and audio of their own.

    Raises:
        ConfigError: a feature is missing, there is no neutral clip, or no second emotion.
    """
    train_set = _pairs(config, snapshot, "train", config.train.seed)
    val_set = validation_set(lambda: _pairs(config, snapshot, "val", seed=None))
    return EmotionLearner(config, measure(train_set, config.num_statistics_items), train_set, val_set)


def _pairs(config: Config, snapshot: Snapshot, split: str, seed: int | None) -> EmotionPairs:
    where = ClipFilter(emotions=EMOTIONS, has_audio=True)
    clips = MotionClips(snapshot, split, audio_column(snapshot, config.audio), where)
    return EmotionPairs(clips, config.num_frames, config.pairing, config.same_below, seed)


class EmotionLearner:
    """Trains one module, 'residual'; see models.training.engine.learner.Learner for the attributes."""

    def __init__(self, config: Config, scales: Scales, train_set: EmotionPairs, val_set: EmotionPairs | None) -> None:
        self._config = config
        is_temporal = config.model == "temporal"
        module = TemporalResidual(scales, config.num_layers) if is_temporal else ResAttResidual(scales)
        self.modules: Modules = {"residual": module}
        self.optimizers = {"residual": torch.optim.Adam(module.parameters(), lr=config.learning_rate)}
        self.averaged = self.exported = ("residual",)
        self.train_set, self.val_set, self.collate = train_set, val_set, PadCollate({})

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """Learns the residuals of the pairs of the batch."""
        config, scale = self._config, _module(self.modules).residual_scale
        rate = decayed_rate(config.learning_rate, trainer.step, config.warmup_steps, config.decay_steps)
        self.optimizers["residual"].param_groups[0]["lr"] = rate
        with trainer.autocast():
            output = trainer.module("residual")(speech_of(batch))
        position, velocity = masked_squares(output, scale(batch["residual"]), batch["residual_valid"])
        trainer.update("residual", position + config.velocity_weight * velocity)
        return {
            "position": position.detach(),
            "velocity": velocity.detach(),
            "warped_share": batch["is_warped"].float().mean(),
            "rate": torch.tensor(rate),
        }

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Mean absolute errors of the residual in units of lm3d.

        `residual_mae` is to be below `residual_mae_none`, that of a face without emotion; `neutral_residual` is what is
        added for the label neutral, which should be zero.
        """
        residual, valid = batch["residual"], batch["residual_valid"]
        speech = speech_of(batch)
        neutral = speech._replace(emotion=torch.full_like(speech.emotion, EMOTIONS.index(NEUTRAL)))
        return {
            "residual_mae": masked_mean((_residual(modules, speech) - residual).abs(), valid),
            "residual_mae_none": masked_mean(residual.abs(), valid),
            "neutral_residual": masked_mean(_residual(modules, neutral).abs(), speech.valid),
        }

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Curves of the face with emotion in up to four clips."""
        part = {key: value[:4] for key, value in batch.items() if isinstance(value, Tensor)}
        neutral = part["rest"].flatten(1)[:, None] + part["motion"]
        drawn = neutral + _residual(modules, speech_of(part))
        return landmark_sheet(neutral + part["residual"], drawn, part["residual_valid"])


def speech_of(batch: Batch) -> NeutralSpeech:
    """The neutral motion and the labels of a batch of EmotionPairs."""
    return NeutralSpeech(*(batch[name] for name in NeutralSpeech._fields))


def _module(modules: Modules) -> TemporalResidual | ResAttResidual:
    return cast(TemporalResidual | ResAttResidual, modules["residual"])


def _residual(modules: Modules, speech: NeutralSpeech) -> Tensor:
    """[B, T, 204] model units."""
    module = _module(modules)
    return module.residual_scale.undo(module(speech))
