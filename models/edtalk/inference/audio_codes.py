"""Motion codes of a clip from its sound: what inference asks of the networks that are driven by it.

    network = mouth_network(part_of(tensors, "audio2lip"))        # tensors of a 'model' file
    mouth = mouth_codes(network, mel, num_frames)

Clips may be long: sound is read in pieces, and what is kept grows with the codes only.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.edtalk.networks.expression_predictor import ExpressionPredictor
from models.edtalk.networks.pose_flow import PoseFlow, pose_noise
from models.edtalk.networks.speech_encoder import encode_in_chunks
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.edtalk.weights.mouth_networks import MouthNetwork

# Frames at once of an Audio2Lip, whose layers make pictures of 32 channels of each frame's sound: on a CPU these take
# 0.13 GiB, 1000 took 0.8 and were no faster.
AUDIO2LIP_FRAMES = 125


def mouth_codes(network: MouthNetwork, mel: NDArray[np.floating], num_frames: int) -> Tensor:
    """[N, 20] float32 on the CPU.

    Args:
        network: in eval mode, on any device. The codes of an Audio2Lip want smoothing over time; the others do not.
        mel: [1 + 640 N // 200, 80] (feature `mel`).
        num_frames: N.
    """
    if isinstance(network, TemporalAudio2Lip):
        return encode_in_chunks(network, mel, num_frames, network.num_context_frames, _device(network))
    return encode_in_chunks(network, mel, num_frames, 0, _device(network), AUDIO2LIP_FRAMES)


def pose_codes(
    network: PoseFlow, mel: NDArray[np.floating], num_frames: int, rest: Tensor | None = None, seed: int = 0,
    temperature: float = 1.0, start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """[N, 6] float32 on the CPU: one of the ways in which a head may move with this sound.

    Args:
        network: in eval mode.
        mel, num_frames: as of `mouth_codes`.
        rest: [6] what the head moves about: the pose codes of the portrait; None is the mean of the training clips.
        seed: of the motion; a longer sound begins like its beginning.
        temperature: 1 moves as much as the training clips, 0 not by chance.
        start: [6] pose codes of the first frame; None is at rest.
    """
    speech = encode_in_chunks(network.speech, mel, num_frames, network.speech.num_context_frames, _device(network))
    rest = network.rest if rest is None else rest.to(_device(network), torch.float32)
    noise = pose_noise(1, num_frames, len(rest), torch.Generator().manual_seed(seed)) * temperature
    begin = None if start is None else (start.to(rest) - rest)[None]
    motion = network.sample(speech[None].to(rest), noise.to(rest), begin)
    return (rest + motion[0]).cpu()


@torch.no_grad()
def expression_codes(
    network: ExpressionPredictor, num_frames: int, mood: Tensor | None = None, mel: NDArray[np.floating] | None = None
) -> Tensor:
    """[N, 10] float32 on the CPU, from an emotion, from sound, or from both.

    Args:
        network: in eval mode.
        num_frames: N.
        mood: [8], or [N, 8] to change over time, see expression_predictor.emotion_vector; None is left to the sound.
        mel: as of `mouth_codes`; None leaves it to the mood.

    Raises:
        ValueError: neither is given.
    """
    device = _device(network)
    moods = None if mood is None else mood.to(device, torch.float32).expand(num_frames, -1)[None]
    if mel is not None:
        context = network.speech.num_context_frames
        speech = encode_in_chunks(network.speech, mel, num_frames, context, device)[None].to(device)
        codes = network.from_audio(speech) if moods is None else network.both(moods, speech)
    elif moods is not None:
        codes = network.from_emotion(moods)
    else:
        raise ValueError("an expression needs a mood or a sound")
    return codes[0].cpu()


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
