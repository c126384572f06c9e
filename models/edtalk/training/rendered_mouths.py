"""Frames drawn from mouth codes by a generator that stays as it is, and the losses on them (EDTalk section 3.4)."""

import torch
from torch import Tensor

from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.generator import IdentityFeatures
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.syncnet import NUM_FRAMES
from models.edtalk.training.image_losses import ImageLosses
from models.edtalk.training.sync_loss import SyncLoss, face_crops
from models.training.engine.learner import Batch


def render_mouths(generator: EDTalk, batch: Batch, mouth: Tensor) -> Tensor:
    """The five frames of each window, [5 B, 3, S, S], with these mouths and the frames' own poses.

    Args:
        generator: mouth and pose only, or its expression is left out.
        batch: of models.edtalk.training.talking_frames.TalkingFrames, its codes those of mouth and pose.
        mouth: [B, K, 20] codes of the windows.
    """
    five = batch["at"][:, None] + torch.arange(NUM_FRAMES, device=mouth.device)
    rows = torch.arange(len(mouth), device=mouth.device)[:, None]
    poses = batch["codes"][..., generator.shape.num_mouth :]
    codes = Codes(mouth[rows, five].flatten(0, 1), poses[rows, five].flatten(0, 1))
    with torch.no_grad():
        source = generator.encode_identity(batch["source"])
    return generator.render(_repeated(source, NUM_FRAMES), codes)


def _repeated(source: IdentityFeatures, count: int) -> IdentityFeatures:
    """Each source `count` times."""
    features, prepared = (
        tuple(part.repeat_interleave(count, dim=0) for part in parts) for parts in (source.features, source.prepared)
    )
    return IdentityFeatures(source.latent.repeat_interleave(count, dim=0), features, prepared)


class MouthLosses:
    """Losses of frames drawn by `render_mouths`.

    Args:
        images: those of all image stages.
        sync: None leaves it out.
        face_weight, sync_weight: of the faces' mean absolute error and of the sync loss.
    """

    def __init__(self, images: ImageLosses, sync: SyncLoss | None, face_weight: float, sync_weight: float) -> None:
        self._images, self._sync = images, sync
        self._face_weight, self._sync_weight = face_weight, sync_weight

    def __call__(self, output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of output [5 B, 3, S, S] that should look like the batch's frames; its parts, detached."""
        loss, parts = self._images.generator(output, batch["frames"].flatten(0, 1))
        found, wanted = faces_of(output.unflatten(0, (-1, NUM_FRAMES)), batch), faces_of(batch["frames"], batch)
        errors = (found - wanted).abs().mean((1, 2, 3, 4))
        extra = {"face": (torch.where(batch["has_face"], errors, 0).mean(), self._face_weight)}
        if self._sync:
            extra["sync"] = (self._sync(found, batch["sync_mel"], batch["has_face"]), self._sync_weight)
        for name, (value, weight) in extra.items():
            loss, parts = loss + weight * value, parts | {name: value.detach()}
        return loss, parts


def faces_of(frames: Tensor, batch: Batch) -> Tensor:
    """[B, 5, 3, 96, 96] the faces in frames [B, 5, 3, S, S], by the batch's boxes."""
    crops = face_crops(frames.flatten(0, 1), batch["boxes"].flatten(0, 1))
    return crops.unflatten(0, frames.shape[:2])
