"""SpeechEncoder: a spectrogram to one vector per video frame, in the context of the audio before and after it.

A strided projection of the mel (the 200 ms around each frame) and residual gated convolutions over the frames, their
dilation doubling up to 8 (van den Oord et al., "WaveNet", 2016, not causal here). Any length; the receptive field of a
frame ends `num_context_frames` away, so that long audio can be encoded in pieces without a seam.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from storage.timelaw import WINDOW_COLUMNS, mel_windows

NUM_BANDS = 80
KERNEL = 3
DILATIONS = (1, 2, 4, 8)
# Mel levels lie in -4..4.
MAX_LEVEL = 4.0
FRAMES_PER_PERIOD, COLUMNS_PER_PERIOD = 5, 16
CHUNK_FRAMES = 1000


class SpeechSize(BaseModel):
    """Sizes of a SpeechEncoder.

    Attributes:
        width: W, numbers per frame.
        num_layers: gated convolutions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 256
    num_layers: PositiveInt = 6

    @staticmethod
    def of(state: Mapping[str, Tensor], prefix: str = "speech.") -> "SpeechSize":
        """The sizes of the encoder whose tensors are named `<prefix>...` in a state dict."""
        blocks = {key.split(".")[1] for name in state if (key := name.removeprefix(prefix)).startswith("blocks.")}
        return SpeechSize(width=len(state[f"{prefix}enter.bias"]), num_layers=len(blocks))


class GatedBlock(nn.Module):
    """Residual block: a dilated, gated convolution of the normalised values [B, T, W], added to them."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Conv1d(width, 2 * width, KERNEL, padding=dilation * (KERNEL // 2), dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, T, W], mask [B, T, 1] bool; frames outside it have no influence on the others."""
        hidden = self.norm(x).masked_fill(~mask, 0).mT
        return x + self.mix(functional.glu(self.gate(hidden), dim=1)).mT


class SpeechEncoder(nn.Module):
    """Mel windows to vectors.

    Args:
        size: sizes.
    """

    def __init__(self, size: SpeechSize) -> None:
        super().__init__()
        dilations = [DILATIONS[layer % len(DILATIONS)] for layer in range(size.num_layers)]
        self.enter = nn.Linear(NUM_BANDS * WINDOW_COLUMNS, size.width)
        self.blocks = nn.ModuleList(GatedBlock(size.width, dilation) for dilation in dilations)
        self.norm = nn.LayerNorm(size.width)
        self.num_context_frames = sum(dilations) * (KERNEL // 2)

    def forward(self, windows: Tensor, inside: Tensor | None = None) -> Tensor:
        """[B, T, W] of windows [B, T, 1, 80, 16] (field `mel_edtalk`).

        Args:
            windows: one per frame.
            inside: [B, T] bool, False behind the end of a clip; None is True everywhere.
        """
        mask = torch.ones_like(windows[:, :, 0, 0, 0], dtype=torch.bool) if inside is None else inside
        x = functional.gelu(self.enter(windows.flatten(2) / MAX_LEVEL))
        for block in self.blocks:
            x = block(x, mask[..., None])
        return self.norm(x)


def frame_windows(mel: NDArray[np.floating], first: int, last: int) -> Tensor:
    """[last - first, 1, 80, 16] float32: the windows of frames first .. last - 1 of a mel [1 + 640 N // 200, 80]."""
    # Five frames are 16 columns: a mel cut there has the same windows, except for its first frames, which would clamp.
    base = max(0, first // FRAMES_PER_PERIOD - 1) * FRAMES_PER_PERIOD
    rest = mel[base * COLUMNS_PER_PERIOD // FRAMES_PER_PERIOD :]
    windows = mel_windows(rest, last - base)[first - base :].transpose(0, 2, 1)[:, None]
    return torch.from_numpy(np.ascontiguousarray(windows, np.float32))


@torch.no_grad()
def encode_in_chunks(
    encode: Callable[[Tensor], Tensor], mel: NDArray[np.floating], num_frames: int, num_context_frames: int,
    device: torch.device | str = "cpu", chunk_frames: int = CHUNK_FRAMES,
) -> Tensor:  # fmt: skip
    """A whole clip through `encode`, in pieces: the windows of a long clip take five times the memory of its mel.

    Args:
        encode: [1, T, 1, 80, 16] -> [1, T, D].
        mel: [1 + 640 N // 200, 80].
        num_frames: N.
        num_context_frames: frames of context of `encode` to either side.
        device: device of `encode`.
        chunk_frames: frames per piece.

    Returns:
        [N, D] float32 on the CPU, equal to the result for all windows at once.
    """
    parts = []
    for first in range(0, num_frames, chunk_frames):
        last = min(first + chunk_frames, num_frames)
        begin, end = max(0, first - num_context_frames), min(num_frames, last + num_context_frames)
        encoded = encode(frame_windows(mel, begin, end)[None].to(device))[0]
        parts.append(encoded[first - begin : last - begin].float().cpu())
    return torch.cat(parts)
