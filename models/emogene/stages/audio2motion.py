"""Audio to motion: the VAE that turns speech and pitch into the motion of a neutral face (MotionVAE).

Losses and rates are those published for the audio-to-motion VAE that EmoGene takes over from GeneFace++ (Ye et al.,
2023): squared error 1, squared error of the velocity 3, divergence from the flow prior 0.4; Adam 5e-4 with warm-up. The
lip-sync loss (weight 0.01, of a SyncNet on lm3d that is trained first) is not part of it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from models.data.clip_dataset import ClipFilter
from models.data.collate import PadCollate
from models.data.landmark_motion import MOUTH, decayed_rate, masked_mean, masked_squares
from models.data.motion_clips import AudioChoice, MotionClips, audio_column, has_clips
from models.emogene.audio_encoder import Speech
from models.emogene.motion_vae import MotionVAE, latent_noise
from models.emogene.speech_windows import SpeechStatistics, SpeechWindows, Target, measure
from models.training.engine.config import StageConfig, TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from models.training.landmark_plot import landmark_sheet
from storage.snapshot import Snapshot

VERSION = 1
PARENTS: tuple[str, ...] = ()
FEATURES = ("face3d", "mel50")


class Config(StageConfig):
    """Settings of the stage.

    Attributes:
        audio: feature that represents the audio; 'auto' is hubert where the snapshot holds it, else mel50.
        target: of the network: 'lm3d', offsets of the 68 points from the person's rest shape, or 'exp', coefficients.
        num_frames: length of the windows; shorter clips are padded.
        num_statistics_clips: clips from which the scale of the features is taken.
        learning_rate: of Adam, after `warmup_steps`; it falls to a tenth every `decay_steps`.
        position_weight, velocity_weight, divergence_weight: of the losses, in units of the standardised target.
    """

    audio: AudioChoice = "auto"
    target: Target = "lm3d"
    num_frames: PositiveInt = 100
    num_statistics_clips: PositiveInt = 512
    learning_rate: PositiveFloat = 5e-4
    warmup_steps: PositiveInt = 1000
    decay_steps: PositiveInt = 250_000
    position_weight: NonNegativeFloat = 1.0
    velocity_weight: NonNegativeFloat = 3.0
    divergence_weight: NonNegativeFloat = 0.4


PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(
            train=TrainConfig(max_steps=60, batch_size=4, log_every=10, val_every=30, image_every=30, save_every=30),
            num_frames=48,
            warmup_steps=10,
        ),
        "paper": Config(train=TrainConfig(max_steps=40_000, batch_size=512, num_workers=4, val_batches=8)),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "Audio2MotionLearner":
    """The learner on the clips that have audio of their own.

    Raises:
        ConfigError: a feature is missing, or no clip with audio and a face is there to learn from.
    """
    audio, where = audio_column(snapshot, config.audio), ClipFilter(has_audio=True)
    clips = MotionClips(snapshot, "train", audio, where)
    statistics = measure(clips, config.target, config.num_statistics_clips)
    train_set = SpeechWindows(clips, config.target, config.num_frames, statistics.amplitudes, config.train.seed)
    val_set = None
    if has_clips(snapshot, "val", where):
        val_clips = MotionClips(snapshot, "val", audio, where)
        val_set = SpeechWindows(val_clips, config.target, config.num_frames, statistics.amplitudes, seed=None)
    return Audio2MotionLearner(config, statistics, train_set, val_set)


class Audio2MotionLearner:
    """Trains one module, 'vae' (a MotionVAE); see models.training.engine.learner.Learner for the attributes."""

    def __init__(
        self, config: Config, statistics: SpeechStatistics, train_set: SpeechWindows, val_set: SpeechWindows | None
    ) -> None:
        self._config = config
        self.modules: Modules = {"vae": MotionVAE(statistics.audio, statistics.motion)}
        self.optimizers = {"vae": torch.optim.Adam(self.modules["vae"].parameters(), lr=config.learning_rate)}
        self.averaged = self.exported = ("vae",)
        self.train_set, self.val_set, self.collate = train_set, val_set, PadCollate({})

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """Reconstructs the windows of the batch."""
        config, motion = self._config, batch["motion"]
        rate = decayed_rate(config.learning_rate, trainer.step, config.warmup_steps, config.decay_steps)
        self.optimizers["vae"].param_groups[0]["lr"] = rate
        noise = latent_noise(len(motion), motion.shape[1], trainer.generator).to(motion.device)
        with trainer.autocast():
            output = trainer.module("vae")(motion, batch["valid"], speech_of(batch), noise)
        position, velocity = masked_squares(output.motion, _vae(self.modules).motion_scale(motion), batch["valid"])
        loss = config.position_weight * position + config.velocity_weight * velocity
        trainer.update("vae", loss + config.divergence_weight * output.divergence)
        return {
            "position": position.detach(),
            "velocity": velocity.detach(),
            "divergence": output.divergence.detach(),
            "rate": torch.tensor(rate),
        }

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Mean absolute errors in units of the target.

        `<target>_mae` is of the likeliest motion for the audio alone, `_reconstructed` of the
        reconstruction, `_still` of a face that does not move, an upper bound. `mouth_mae` is the first, of the mouth's
        points only.
        """
        vae, name, motion, speech = _vae(modules), self._config.target, batch["motion"], speech_of(batch)
        through = vae.motion_scale.undo(vae(motion, batch["valid"], speech).motion)
        drawn = vae.sample(speech.with_usual_controls())
        outputs = {"": drawn, "_reconstructed": through, "_still": vae.motion_scale.mean}
        errors = {suffix: (output - motion).abs() for suffix, output in outputs.items()}
        figures = {f"{name}_mae{suffix}": masked_mean(error, batch["valid"]) for suffix, error in errors.items()}
        if name == "lm3d":
            figures["mouth_mae"] = masked_mean(errors[""].unflatten(-1, (-1, 3))[:, :, MOUTH], batch["valid"])
        return figures

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor | None:
        """Curves of the face in up to four clips; None when coefficients are the target."""
        if self._config.target != "lm3d":
            return None
        part = {key: value[:4] for key, value in batch.items() if isinstance(value, Tensor)}
        drawn = _vae(modules).sample(speech_of(part).with_usual_controls())
        rest = part["rest"].flatten(1)[:, None]
        return landmark_sheet(rest + part["motion"], rest + drawn, part["valid"])


def _vae(modules: Modules) -> MotionVAE:
    return cast(MotionVAE, modules["vae"])


def speech_of(batch: Batch) -> Speech:
    """The audio and controls of a batch of SpeechWindows."""
    return Speech(*(batch[name] for name in Speech._fields))
