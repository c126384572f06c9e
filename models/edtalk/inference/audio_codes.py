"""Motion codes of a clip from its audio, by the networks that are driven by it.

    network = mouth_network(part_of(tensors, "audio2lip"))        # tensors of a 'model' file
    mouth = mouth_codes(network, mel, num_frames)

Clips may be long: audio is read in pieces, and memory grows with the codes only.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.edtalk.networks.expression_predictor import ExpressionPredictor
from models.edtalk.networks.pose_flow import PoseFlow, pose_noise
from models.edtalk.networks.speech_encoder import encode_in_chunks
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.edtalk.weights.mouth_networks import MouthNetwork

# Frames at once of an Audio2Lip, whose layers make images of 32 channels of each frame's audio: on a CPU these take
# 0.13 GiB, 1000 took 0.8 and were no faster.
AUDIO2LIP_FRAMES = 125


def mouth_codes(network: MouthNetwork, mel: NDArray[np.floating], num_frames: int) -> Tensor:
    """[N, 20] float32 on the CPU.

    Args:
        network: in eval mode, on any device. The codes of an Audio2Lip need smoothing over time; the others do not.
        mel: [1 + 640 N // 200, 80] (feature `mel`).
        num_frames: N.
    """
    if isinstance(network, TemporalAudio2Lip):
        return encode_in_chunks(network, mel, num_frames, network.num_context_frames, device_of(network))
    return encode_in_chunks(network, mel, num_frames, 0, device_of(network), AUDIO2LIP_FRAMES)


@dataclass(frozen=True, slots=True)
class PoseSampling:
    """Which of the ways a head may move with some audio.

    Attributes:
        seed: of the motion; longer audio begins like its beginning.
        temperature: 1 moves as much as the training clips, 0 not by chance.
    """

    seed: int = 0
    temperature: float = 1.0


def pose_codes(
    network: PoseFlow, mel: NDArray[np.floating], num_frames: int, sampling: PoseSampling | None = None,
    rest: Tensor | None = None, start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """[N, 6] float32 on the CPU: head motion that goes with the audio.

    Args:
        network: in eval mode.
        mel, num_frames: as of `mouth_codes`.
        sampling: the default is the motion of seed 0.
        rest: [6] what the head moves about: the pose codes of the portrait; None is the mean of the training clips.
        start: [6] pose codes of the first frame; None is at rest.
    """
    device, sampling = device_of(network), sampling or PoseSampling()
    speech = encode_in_chunks(network.speech, mel, num_frames, network.speech.num_context_frames, device)
    rest = network.rest if rest is None else rest.to(device, torch.float32)
    generator = torch.Generator().manual_seed(sampling.seed)
    noise = pose_noise(1, num_frames, len(rest), generator) * sampling.temperature
    begin = None if start is None else (start.to(rest) - rest)[None]
    motion = network.sample(speech[None].to(rest), noise.to(rest), begin)
    return (rest + motion[0]).cpu()


@torch.no_grad()
def expression_codes(
    network: ExpressionPredictor, num_frames: int, emotion_vector: Tensor | None = None,
    mel: NDArray[np.floating] | None = None,
) -> Tensor:  # fmt: skip
    """[N, 10] float32 on the CPU, from an emotion, from audio, or from both.

    Args:
        network: in eval mode.
        num_frames: N.
        emotion_vector: [8], or [N, 8] to change over time, see networks.expression_predictor.emotion_vector; None
            leaves it to the audio.
        mel: as of `mouth_codes`; None leaves it to the emotion.

    Raises:
        ValueError: neither is given.
    """
    device = device_of(network)
    emotions = None
    if emotion_vector is not None:
        emotions = emotion_vector.to(device, torch.float32).expand(num_frames, -1)[None]
    if mel is not None:
        context = network.speech.num_context_frames
        speech = encode_in_chunks(network.speech, mel, num_frames, context, device)[None].to(device)
        codes = network.from_audio(speech) if emotions is None else network.both(emotions, speech)
    elif emotions is not None:
        codes = network.from_emotion(emotions)
    else:
        raise ValueError("an expression needs an emotion or audio")
    return codes[0].cpu()


def device_of(network: nn.Module) -> torch.device:
    """Where the parameters of a network are."""
    return next(network.parameters()).device
