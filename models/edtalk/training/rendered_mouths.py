"""Frames drawn from mouth codes by a frozen generator, and the losses on them (EDTalk section 3.4)."""

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
    """The five frames of each window, [5 B, 3, S, S], with the given mouths and the frames' own poses.

    Args:
        generator: driven by mouth and pose; an expression bank is not used.
        batch: a batch of models.edtalk.training.talking_frames.TalkingFrames with codes of mouth and pose.
        mouth: [B, K, 20] mouth codes of the windows.
    """
    five = batch["at"][:, None] + torch.arange(NUM_FRAMES, device=mouth.device)
    rows = torch.arange(len(mouth), device=mouth.device)[:, None]
    poses = batch["codes"][..., generator.shape.num_mouth :]
    codes = Codes(mouth[rows, five].flatten(0, 1), poses[rows, five].flatten(0, 1))
    with torch.no_grad():
        one = generator.encode_identity(batch["reference"])
        latent, *maps = (x.repeat_interleave(NUM_FRAMES, dim=0) for x in (one.latent, *one.features, *one.prepared))
    count = len(one.features)
    return generator.render(IdentityFeatures(latent, tuple(maps[:count]), tuple(maps[count:])), codes)


class MouthLosses:
    """Losses of frames drawn by `render_mouths`.

    Args:
        images: losses common to all image stages.
        sync: the sync loss; None leaves it out.
        face_weight, sync_weight: weights of the faces' mean absolute error and of the sync loss.
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
    """[B, 5, 3, 96, 96] crops of the faces in frames [B, 5, 3, S, S], by the batch's boxes."""
    crops = face_crops(frames.flatten(0, 1), batch["boxes"].flatten(0, 1))
    return crops.unflatten(0, frames.shape[:2])
