"""The two networks that turn audio into mouth codes: new ones to train, and trained ones from their tensors."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.edtalk.networks.wav2lip_blocks import ConvBlock
from models.edtalk.weights.published_checkpoints import fit_state
from models.edtalk.weights.wav2lip import AUDIO_ENCODER, load_wav2lip
from models.nn.standardiser import Standardiser

MouthNetwork = Audio2Lip | TemporalAudio2Lip


def new_compatible(scale: Standardiser, windows: Tensor | None) -> Audio2Lip:
    """Audio2Lip as it was published; before training its output is the mean codes for any audio.

    Args:
        scale: statistics of the mouth codes.
        windows: [n, 1, 80, 16] mel windows to fit a random encoder to; None takes the encoder of Wav2Lip.

    Raises:
        WeightsError: the weights of Wav2Lip are missing.
    """
    network = Audio2Lip(len(scale.mean))
    if windows is None:
        load_wav2lip(AUDIO_ENCODER, network.audio_encoder, "audio_encoder.")
    else:
        randomise(network.audio_encoder, windows)
    # training would never change a random layer in directions that the training clips do not have
    nn.init.zeros_(network.mapping.weight)
    with torch.no_grad():
        network.mapping.bias.copy_(scale.mean)
    return network


def mouth_network(state: Mapping[str, Tensor]) -> MouthNetwork:
    """The network that a state dict belongs to, in eval mode.

    Raises:
        WeightsError: it belongs to neither.
    """
    if "speech.enter.weight" in state:
        return TemporalAudio2Lip.of(state)
    network = Audio2Lip(len(state.get("mapping.bias", torch.zeros(1))))
    fit_state(network, state, "audio2lip")
    return network.eval()


@torch.no_grad()
def randomise(encoder: nn.Sequential, windows: Tensor) -> None:
    """Initialises an encoder to random features that preserve much of the mel windows [n, 1, 80, 16].

    Filters are random, blocks with a shortcut are only that, and responses have mean 1 and variance 1: most of them
    pass the ReLU unbent, so that little is lost on the way.
    """
    for block in encoder:
        conv, norm = cast(ConvBlock, block).conv_block
        nn.init.kaiming_normal_(cast(nn.Conv2d, conv).weight, nonlinearity="relu")
        norm = cast(nn.BatchNorm2d, norm)
        nn.init.constant_(norm.weight, 0.0 if block.is_residual else 1.0)
        nn.init.constant_(norm.bias, 0.0 if block.is_residual else 1.0)
        norm.reset_running_stats()
        norm.momentum = None
    encoder.train()(windows)
    encoder.eval()
