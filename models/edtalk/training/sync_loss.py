"""SyncLoss: the distance of rendered mouths from the audio, by a trained, frozen SyncNet.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild", ACM MM 2020: binary cross
entropy of the cosine between the embeddings of five frames and of the 200 ms of audio that begin with the first of
them. The frames are lower halves of 96 px faces, BGR in 0..1. The mel window of a frame (storage.timelaw) begins
two frames before it, so five frames from number r on belong to the window of frame r + 2.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.edtalk.networks.syncnet import SyncNet
from models.edtalk.weights.wav2lip import SYNCNET, load_wav2lip
from models.nn.stylegan import no_autocast

# The mel window that begins with a frame is the window of the frame this much later.
WINDOW_LEAD_FRAMES = 2
FACE_PX = 96
MIN_COSINE = 1e-4


def face_crops(images: Tensor, boxes: Tensor) -> Tensor:
    """Faces cropped from images and resized to 96 px, bilinear and differentiable; zero outside of the image.

    Args:
        images: [B, C, S, S].
        boxes: [B, 4] left, top, right, bottom as shares of the side, 0 and 1 its outer edges.

    Returns:
        [B, C, 96, 96] float32.
    """
    steps = (torch.arange(FACE_PX, device=images.device) + 0.5) / FACE_PX
    low, size = boxes[:, :2].float(), (boxes[:, 2:] - boxes[:, :2]).float()
    # -1 and 1 are the outer edges, as grid_sample has them with align_corners=False
    places = 2 * (low[:, None] + steps[:, None] * size[:, None]) - 1
    x, y = places[:, None, :, 0].expand(-1, FACE_PX, -1), places[:, :, None, 1].expand(-1, -1, FACE_PX)
    return functional.grid_sample(images.float(), torch.stack([x, y], dim=-1), align_corners=False)


def syncnet_faces(faces: Tensor) -> Tensor:
    """SyncNet's input: [B, 15, 48, 96] BGR 0..1, frame by frame, from faces [B, 5, 3, 96, 96] RGB -1..1."""
    lower = faces[..., FACE_PX // 2 :, :].flip(2)
    return (lower.flatten(1, 2) + 1) / 2


def cosine_bce(audio: Tensor, mouth: Tensor, is_synced: Tensor) -> Tensor:
    """[B] binary cross entropy, the cosine of unit vectors [B, D] taken as the probability that they belong together.

    Args:
        audio, mouth: embeddings without negative numbers, so that the cosine is in 0..1.
        is_synced: [B] 1 or 0.
    """
    with no_autocast(audio):
        # at 0 the gradient would be infinite
        cosine = (audio.float() * mouth.float()).sum(1).clamp(MIN_COSINE, 1)
        return functional.binary_cross_entropy(cosine, is_synced.float(), reduction="none")


class SyncLoss:
    """The sync loss of rendered frames.

    Not a module of a learner: its weights are constants and not part of checkpoints.

    Args:
        syncnet: trained.
    """

    def __init__(self, syncnet: SyncNet) -> None:
        self._syncnet = syncnet.requires_grad_(False).eval()

    def __call__(self, faces: Tensor, mel: Tensor, is_counted: Tensor) -> Tensor:
        """The mean over the items that count, a scalar; 0 when none does.

        Args:
            faces: [B, 5, 3, 96, 96] RGB about -1..1, faces of frames r .. r + 4.
            mel: [B, 1, 80, 16] the mel window that begins with frame r, the window of frame r + 2.
            is_counted: [B] bool, which items count.
        """
        self._syncnet.to(faces.device)
        audio, mouth = self._syncnet(mel, syncnet_faces(faces.clamp(-1, 1)))
        losses = cosine_bce(audio, mouth, torch.ones_like(audio[:, 0]))
        return torch.where(is_counted, losses, 0).sum() / is_counted.sum().clamp_min(1)


def load_sync_loss() -> SyncLoss:
    """The sync loss with Wav2Lip's SyncNet.

    Raises:
        WeightsError: its file is missing or holds something else.
    """
    syncnet = SyncNet()
    load_wav2lip(SYNCNET, syncnet)
    return SyncLoss(syncnet)
