"""AudioFrames: a 50 Hz audio signal as one vector per video frame.

The convolution stack that conditions the audio-to-motion VAE of the GeneFace line (Ye et al., GeneFace++, 2023):
convolution, batch norm, GELU, convolution, then every second row.
"""

from torch import Tensor, nn

ROWS_PER_FRAME = 2
KERNEL = 3


class AudioFrames(nn.Module):
    """[B, 2 T, C] -> [B, D, T].

    Args:
        num_in: C.
        num_out: D.
    """

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(num_in, num_out, KERNEL, padding=KERNEL // 2)
        self.norm = nn.BatchNorm1d(num_out)
        self.activation = nn.GELU()
        self.leave = nn.Conv1d(num_out, num_out, KERNEL, padding=KERNEL // 2)

    def forward(self, rows: Tensor, inside: Tensor) -> Tensor:
        """Vectors of frames.

        Args:
            rows: [B, 2 T, C]; those of frames that are not inside count as zero.
            inside: [B, T] bool, False behind the end of the clip.
        """
        mask = inside.repeat_interleave(ROWS_PER_FRAME, dim=1)[:, None]
        # masked between the convolutions too: the output for a clip does not depend on its padding
        hidden = self.activation(self.norm(self.enter(rows.mT.masked_fill(~mask, 0))))
        return self.leave(hidden.masked_fill(~mask, 0))[:, :, ::ROWS_PER_FRAME]
