"""Stage 3: mouth codes from audio, by a temporal model over the spectrogram or by the published Audio2Lip.

EDTalk section 3.4. The codes of all frames come from the generator of stage 1, which is frozen; so is the audio encoder
of Audio2Lip, with its running statistics. Beside the codes the frames drawn from them are compared, and with the
weights of a SyncNet the sync loss of five frames and the audio that begins with the first of them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam, Optimizer
from torch.utils.data import Dataset

from models.data.collate import PadCollate
from models.data.landmark_motion import masked_squares
from models.edtalk.data.code_windows import Windows, audio_windows, code_scale
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import SMALL, Shape
from models.edtalk.networks.speech_encoder import SpeechSize
from models.edtalk.networks.syncnet import NUM_FRAMES
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.edtalk.training.code_plot import code_curves
from models.edtalk.training.image_losses import (
    SMALL_LOSSES,
    ImageLossConfig,
    ImageLosses,
    discriminator_adam,
    side_by_side,
)
from models.edtalk.training.rendered_mouths import MouthLosses, render_mouths
from models.edtalk.training.sync_loss import load_sync_loss
from models.edtalk.training.talking_frames import TalkingFrames
from models.edtalk.weights import wav2lip
from models.edtalk.weights.mouth_networks import MouthNetwork, new_compatible
from models.edtalk.weights.parent_state import discriminator_of, edtalk_of
from models.nn.losses import psnr_db
from models.training.engine.config import StageConfig, TrainConfig
from models.training.engine.learner import Batch, Modules, Scalars, Trainer
from storage.snapshot import Snapshot

VERSION = 2
PARENT = "mouth_pose"
PARENTS: tuple[str, ...] = (PARENT,)
FEATURES: tuple[str, ...] = ("mel", "landmarks", "bbox")

_NUM_CALIBRATION_ITEMS = 8

_log = logging.getLogger(__name__)


class Config(StageConfig):
    """Settings of the stage.

    Attributes:
        network: 'temporal' or 'compatible', the published Audio2Lip.
        encoder: audio encoder of 'compatible': Wav2Lip's, or a random one for tests and runs without its weights.
        speech: sizes of 'temporal'.
        shape: sizes of the generator, those of the parent.
        num_frames: length of the windows; shorter clips are padded.
        learning_rate: Adam's learning rate.
        code_weight: weight of the squared errors of the codes.
        change_weight: weight of the squared errors of the codes' changes from frame to frame.
        images: losses on five rendered frames of each window; None trains on codes only, which is much faster.
        face_weight: weight of the mean absolute error of the faces in them.
        syncnet: 'auto' uses Wav2Lip's SyncNet where its weights are present.
        sync_weight: weight of the sync loss.
    """

    network: Literal["temporal", "compatible"] = "temporal"
    encoder: Literal["wav2lip", "random"] = "wav2lip"
    speech: SpeechSize = SpeechSize()
    shape: Shape = Shape()
    num_frames: int = Field(default=50, ge=NUM_FRAMES)
    learning_rate: PositiveFloat = 3e-4
    code_weight: NonNegativeFloat = 1.0
    change_weight: NonNegativeFloat = 0.1
    images: ImageLossConfig | None = ImageLossConfig()
    face_weight: NonNegativeFloat = 1.0
    syncnet: Literal["auto", "wav2lip", "off"] = "auto"
    sync_weight: NonNegativeFloat = 5.0

    def weights(self) -> tuple[str, ...]:
        """See StageConfig; with syncnet 'auto' the answer depends on the weights that are present."""
        has_encoder = self.network == "compatible" and self.encoder == "wav2lip"
        wanted = {wav2lip.AUDIO_ENCODER: has_encoder, wav2lip.SYNCNET: self.has_sync_loss}
        return (*(self.images.weights() if self.images else ()), *(name for name, is_used in wanted.items() if is_used))

    @property
    def has_sync_loss(self) -> bool:
        """Whether there is a sync loss: frames are rendered, and SyncNet is required, or present with 'auto'."""
        is_at_hand = self.syncnet == "auto" and wav2lip.is_at_hand(wav2lip.SYNCNET)
        return self.images is not None and self.sync_weight > 0 and (self.syncnet == "wav2lip" or is_at_hand)


SMOKE = TrainConfig(
    max_steps=3, batch_size=2, log_every=1, val_every=3, val_batches=1, image_every=3, save_every=3
)  # fmt: skip
PAPER = TrainConfig(max_steps=50_000, batch_size=4, num_workers=4, val_batches=20)

PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "smoke": Config(
            train=SMOKE,
            speech=SpeechSize(width=32, num_layers=3),
            shape=SMALL,
            num_frames=20,
            learning_rate=1e-3,
            images=SMALL_LOSSES,
            syncnet="off",
        ),
        "paper": Config(train=PAPER),
        # as published: five frames at a time, only the last layer trained
        "compatible": Config(train=PAPER, network="compatible", num_frames=NUM_FRAMES, learning_rate=0.0016),
    }
)


def build(config: Config, snapshot: Snapshot, parents: Mapping[str, dict[str, Tensor]]) -> "Audio2MouthLearner":
    """The learner on the clips of the splits 'train' and 'val' that have audio of their own and show a face.

    Raises:
        ConfigError: a feature is missing, or there is no such clip to train on.
        WeightsError: weights that the config asks for are missing, or the parent has another shape.
    """
    generator = edtalk_of(parents[PARENT], config.shape, PARENT).requires_grad_(False).eval()
    windows = audio_windows(generator, snapshot, ("mouth", "pose"), config.num_frames, NUM_FRAMES, config.train)
    network = new_network(config, windows)
    return Audio2MouthLearner(config, network, generator, windows, snapshot, parents[PARENT])


def new_network(config: Config, windows: Windows) -> MouthNetwork:
    """The network before training, scaled to the mouth codes of the training data."""
    scale = code_scale([codes[:, : config.shape.num_mouth] for codes in windows.train.codes])
    if config.network == "temporal":
        return TemporalAudio2Lip(scale, config.speech)
    if config.encoder == "wav2lip":
        return new_compatible(scale, None)
    items = range(min(_NUM_CALIBRATION_ITEMS, len(windows.train)))
    return new_compatible(scale, torch.cat([windows.train[index]["mel"] for index in items]))


class Audio2MouthLearner:
    """Trains 'audio2lip'; the frozen 'gen' draws frames, against 'dis'; see learner.Learner."""

    def __init__(
        self, config: Config, network: MouthNetwork, generator: EDTalk, windows: Windows, snapshot: Snapshot,
        parent: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        self._config, self._num_mouth = config, config.shape.num_mouth
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.modules: Modules = {"audio2lip": network}
        self.optimizers: Mapping[str, Optimizer] = {"audio2lip": Adam(trained, lr=config.learning_rate)}
        self.averaged: tuple[str, ...] = ("audio2lip",)
        self.exported: tuple[str, ...] = self.averaged
        self.train_set: Dataset[Any] = windows.train
        self.val_set: Dataset[Any] | None = windows.val
        self.collate: Callable[[Sequence[Any]], Batch] = PadCollate({})
        if config.images:
            self._draw(config.images, generator, windows, snapshot, parent)

    def _draw(
        self, losses: ImageLossConfig, generator: EDTalk, windows: Windows, snapshot: Snapshot,
        parent: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        """Adds the modules, data and losses of rendered frames."""
        config, size_px = self._config, self._config.shape.size_px
        discriminator = discriminator_of(parent, config.shape, PARENT)
        self.modules = {**self.modules, "gen": generator, "dis": discriminator}
        self.optimizers = {**self.optimizers, "dis": discriminator_adam(discriminator.parameters(), losses)}
        self.train_set = TalkingFrames(windows.train, snapshot, size_px)
        self.val_set = TalkingFrames(windows.val, snapshot, size_px) if windows.val else None
        sync = load_sync_loss() if config.has_sync_loss else None
        if sync is None and config.syncnet == "auto" and config.sync_weight:
            _log.warning("SyncNet's weights (%r) are missing: trained without sync loss", wav2lip.SYNCNET)
        self._image_losses = ImageLosses(losses, discriminator)
        self._mouth_losses = MouthLosses(self._image_losses, sync, config.face_weight, config.sync_weight)

    def train_step(self, batch: Batch, trainer: Trainer) -> Scalars:
        """One step of the network, and of the discriminator where frames are drawn."""
        with trainer.autocast():
            mouth = self._mouth(trainer.module("audio2lip"), batch)
        squares, changes = masked_squares(mouth, self._wanted(batch), batch["inside"])
        loss = self._config.code_weight * squares + self._config.change_weight * changes
        parts = {"codes": squares.detach(), "changes": changes.detach()}
        if not self._config.images:
            trainer.update("audio2lip", loss)
            return parts
        with trainer.autocast():
            output = render_mouths(cast(EDTalk, self.modules["gen"]), batch, mouth)
            image_loss, image_parts = self._mouth_losses(output, batch)
        trainer.update("audio2lip", loss + image_loss)
        dis_parts = self._image_losses.train_discriminator(batch["frames"].flatten(0, 1), output, trainer)
        return parts | image_parts | dis_parts

    def validate(self, batch: Batch, modules: Modules) -> Scalars:
        """Errors of the codes, and of the frames drawn from them.

        `codes` is the mean squared error, `codes_still` that of the clip's mean codes, which a model has to beat.
        `correlation` is the correlation of the codes about their means. `l1` and `psnr_db` are of the drawn frames,
        `l1_codes` of those drawn from the true codes, the lower bound of `l1`.
        """
        wanted, inside = self._wanted(batch), batch["inside"]
        mouth = self._mouth(modules["audio2lip"], batch).float()
        still = batch["mean"][:, None, : self._num_mouth].expand_as(wanted)
        figures = {
            "codes": masked_squares(mouth, wanted, inside)[0],
            "codes_still": masked_squares(still, wanted, inside)[0],
            "correlation": correlation(mouth, wanted, inside),
        }
        if not self._config.images:
            return figures
        generator, target = cast(EDTalk, modules["gen"]), batch["frames"].flatten(0, 1)
        output, best = (render_mouths(generator, batch, codes).clamp(-1, 1) for codes in (mouth, wanted))
        drawn = {"l1": functional.l1_loss(output, target), "l1_codes": functional.l1_loss(best, target)}
        return figures | drawn | {"psnr_db": psnr_db(output, target)}

    def sample_image(self, batch: Batch, modules: Modules) -> Tensor:
        """Columns: reference, true frame, drawn from the true codes, from audio; without images curves of the codes."""
        wanted, mouth = self._wanted(batch), self._mouth(modules["audio2lip"], batch)
        if not self._config.images:
            return code_curves(wanted, mouth, batch["inside"])
        generator = cast(EDTalk, modules["gen"])
        drawn = [render_mouths(generator, batch, codes)[::NUM_FRAMES] for codes in (wanted, mouth)]
        return side_by_side(batch["reference"], batch["frames"][:, 0], *drawn)

    def _mouth(self, network: Callable[..., Tensor], batch: Batch) -> Tensor:
        """[B, K, 20] mouth codes from audio."""
        is_temporal = self._config.network == "temporal"
        return network(batch["mel"], batch["inside"]) if is_temporal else network(batch["mel"])

    def _wanted(self, batch: Batch) -> Tensor:
        """[B, K, 20] true mouth codes."""
        return batch["codes"][..., : self._num_mouth]


def correlation(output: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Correlation of codes [B, T, C] about the mean of each clip and code, over the frames inside [B, T]; scalar."""
    mask = inside[..., None]
    count = mask.sum(1, keepdim=True).clamp_min(1)
    first, second = ((x.float() * mask - (x.float() * mask).sum(1, keepdim=True) / count) * mask
                     for x in (output, target))  # fmt: skip
    return (first * second).sum() / (first.square().sum() * second.square().sum()).sqrt().clamp_min(1e-12)
