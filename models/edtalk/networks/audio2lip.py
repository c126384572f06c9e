"""Audio2Lip: mouth codes from audio, each frame on its own; the frozen audio encoder of Wav2Lip and one linear layer.

EDTalk section 3; the encoder from Prajwal et al., ACM MM 2020.
"""

from torch import Tensor, nn

from models.edtalk.networks.wav2lip_blocks import Block, conv_blocks, residual

NUM_FEATURES = 512

AUDIO_BLOCKS: list[Block] = [
    (1, 32, 3, 1, 1), *residual(32, 2),
    (32, 64, 3, (3, 1), 1), *residual(64, 2),
    (64, 128, 3, 3, 1), *residual(128, 2),
    (128, 256, 3, (3, 2), 1), *residual(256, 1),
    (256, 512, 3, 1, 0), (512, NUM_FEATURES, 1, 1, 0),
]  # fmt: skip


class Audio2Lip(nn.Module):
    """Mel windows to mouth codes.

    Args:
        num_mouth: codes per frame.
    """

    def __init__(self, num_mouth: int = 20) -> None:
        super().__init__()
        self.audio_encoder = conv_blocks(AUDIO_BLOCKS)
        self.mapping = nn.Linear(NUM_FEATURES, num_mouth)
        self.audio_encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "Audio2Lip":
        """The encoder stays in evaluation mode: its running statistics are part of its weights."""
        super().train(mode)
        self.audio_encoder.eval()
        return self

    def forward(self, mel_windows: Tensor) -> Tensor:
        """[..., 1, 80, 16] windows, one per frame (field `mel_edtalk`) -> [..., 20] mouth codes."""
        features = self.audio_encoder(mel_windows.flatten(0, -4)).flatten(1)
        return self.mapping(features).unflatten(0, mel_windows.shape[:-3])
