"""SyncNet: a score of whether five frames of a mouth and 200 ms of audio belong together.

The colour SyncNet of Prajwal et al., ACM MM 2020.
"""

from torch import Tensor, nn
from torch.nn import functional

from models.edtalk.networks.wav2lip_blocks import Block, conv_blocks, residual

NUM_FRAMES = 5

FACE_BLOCKS: list[Block] = [
    (3 * NUM_FRAMES, 32, 7, 1, 3),
    (32, 64, 5, (1, 2), 1), *residual(64, 2),
    (64, 128, 3, 2, 1), *residual(128, 3),
    (128, 256, 3, 2, 1), *residual(256, 2),
    (256, 512, 3, 2, 1), *residual(512, 2),
    (512, 512, 3, 2, 1), (512, 512, 3, 1, 0), (512, 512, 1, 1, 0),
]  # fmt: skip

AUDIO_BLOCKS: list[Block] = [
    (1, 32, 3, 1, 1), *residual(32, 2),
    (32, 64, 3, (3, 1), 1), *residual(64, 2),
    (64, 128, 3, 3, 1), *residual(128, 2),
    (128, 256, 3, (3, 2), 1), *residual(256, 2),
    (256, 512, 3, 1, 0), (512, 512, 1, 1, 0),
]  # fmt: skip


class SyncNet(nn.Module):
    """Embeddings of mouths and audio, in the same direction where they belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder = conv_blocks(FACE_BLOCKS)
        self.audio_encoder = conv_blocks(AUDIO_BLOCKS)

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of audio and images.

        Args:
            mel: [B, 1, 80, 16] window that starts with the first of the five frames.
            faces: [B, 15, 48, 96] lower halves of 96 px faces, five frames stacked: BGR in 0..1 in published weights.

        Returns:
            [B, 512] of the audio and [B, 512] of the images.
        """
        embedded = (self.audio_encoder(mel), self.face_encoder(faces))
        audio, images = (functional.normalize(x.flatten(1), dim=1) for x in embedded)
        return audio, images
