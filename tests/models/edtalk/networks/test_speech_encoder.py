"""The receptive field is as long as stated, and long audio encoded in pieces equals audio encoded at once."""

import numpy as np
import pytest
import torch

from models.edtalk.networks.speech_encoder import SpeechEncoder, SpeechSize, encode_in_chunks, frame_windows
from storage.timelaw import mel_windows


def encoder(width: int = 8, num_layers: int = 5) -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(SpeechSize(width=width, num_layers=num_layers)).eval()


def made_mel(num_frames: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-4, 4, (1 + 640 * num_frames // 200, 80)).astype(np.float32)


@pytest.mark.parametrize(("num_layers", "context"), [(1, 1), (3, 7), (5, 16)])
def test_a_frame_depends_on_as_many_frames_around_it_as_are_told(num_layers: int, context: int) -> None:
    network = encoder(num_layers=num_layers)
    assert network.num_context_frames == context
    windows = torch.randn(1, 60, 1, 80, 16)
    changed = windows.clone()
    changed[:, 30] += 1
    with torch.no_grad():
        moved = (network(changed) - network(windows)).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(30 - context, 31 + context))


def test_audio_behind_the_end_has_no_influence() -> None:
    network, windows = encoder(), torch.randn(2, 20, 1, 80, 16)
    inside = torch.arange(20) < torch.tensor([20, 11])[:, None]
    with torch.no_grad():
        padded = network(windows, inside)
        torch.testing.assert_close(padded[1, :11], network(windows[1:, :11])[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(padded[0], network(windows[:1])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first", "last"), [(0, 7), (1, 9), (4, 40), (5, 40), (13, 14), (38, 40), (23, 33)])
def test_windows_of_some_frames_are_those_of_the_whole_clip(first: int, last: int) -> None:
    mel = made_mel(40)
    whole = torch.from_numpy(mel_windows(mel, 40)).transpose(1, 2)[:, None]
    assert torch.equal(frame_windows(mel, first, last), whole[first:last])


@pytest.mark.parametrize("chunk_frames", [7, 50, 1000])
def test_pieces_fit_together_without_a_seam(chunk_frames: int) -> None:
    network, mel = encoder(), made_mel(93)
    found = encode_in_chunks(network, mel, 93, network.num_context_frames, chunk_frames=chunk_frames)
    with torch.no_grad():
        torch.testing.assert_close(found, network(frame_windows(mel, 0, 93)[None])[0], atol=1e-5, rtol=0)


def test_the_sizes_are_told_by_the_tensors() -> None:
    size = SpeechSize(width=12, num_layers=11)
    state = {f"speech.{name}": value for name, value in SpeechEncoder(size).state_dict().items()}
    assert SpeechSize.of(state) == size
