"""TemporalAudio2Lip: mouth codes from a spectrogram, each frame with the audio before and after it.

The default in place of Audio2Lip (audio2lip.py), whose frames see 200 ms of audio and of which only the last layer is
trained: this network is trained whole, sees 0.7 s to either side and needs no smoothing.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from models.edtalk.networks.speech_encoder import SpeechEncoder, SpeechSize
from models.nn.standardiser import Standardiser


class TemporalAudio2Lip(nn.Module):
    """Mel windows to mouth codes.

    Args:
        scale: statistics of the mouth codes [20].
        size: sizes of the encoder.
    """

    def __init__(self, scale: Standardiser, size: SpeechSize) -> None:
        super().__init__()
        self.scale = scale
        self.speech = SpeechEncoder(size)
        self.leave = nn.Linear(size.width, len(scale.mean))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.num_context_frames = self.speech.num_context_frames

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> "TemporalAudio2Lip":
        """The network of a state dict, in eval mode."""
        network = TemporalAudio2Lip(Standardiser(state["scale.mean"], state["scale.std"]), SpeechSize.of(state))
        network.load_state_dict(dict(state))
        return network.eval()

    def forward(self, windows: Tensor, inside: Tensor | None = None) -> Tensor:
        """[B, T, 20] mouth codes of mel windows [B, T, 1, 80, 16] (field `mel_edtalk`).

        Args:
            windows: one per frame.
            inside: [B, T] bool, False behind the end of a clip; None is True everywhere.
        """
        return self.scale.undo(self.leave(self.speech(windows, inside)))
