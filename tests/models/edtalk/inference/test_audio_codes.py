"""Codes from audio: shapes, seeds, references, and the same codes in pieces as of all audio at once."""

import numpy as np
import pytest
import torch

from models.edtalk.inference import audio_codes
from models.edtalk.inference.audio_codes import PoseSampling, expression_codes, mouth_codes, pose_codes
from models.edtalk.networks import speech_encoder
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.expression_predictor import EmotionTable, ExpressionPredictor
from models.edtalk.networks.pose_flow import PoseFlow, PoseFlowSize, PoseStatistics
from models.edtalk.networks.speech_encoder import SpeechSize, frame_windows
from models.edtalk.networks.temporal_audio2lip import TemporalAudio2Lip
from models.edtalk.weights.mouth_networks import MouthNetwork
from models.nn.standardiser import Standardiser

NUM_FRAMES = 37
SIZE = SpeechSize(width=8, num_layers=3)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio is read in several pieces."""
    defaults = speech_encoder.encode_in_chunks.__wrapped__.__defaults__  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(speech_encoder.encode_in_chunks.__wrapped__, "__defaults__", (*defaults[:-1], 10))  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(audio_codes, "AUDIO2LIP_FRAMES", 10)


@pytest.fixture
def mel() -> np.ndarray:
    return np.random.default_rng(0).uniform(-4, 4, (1 + 640 * NUM_FRAMES // 200, 80)).astype(np.float32)


def scale(num_codes: int) -> Standardiser:
    return Standardiser(torch.arange(num_codes).float(), torch.ones(num_codes))


@pytest.mark.parametrize("kind", ["temporal", "compatible"])
def test_mouth_codes_are_those_of_all_audio_at_once(mel: np.ndarray, kind: str) -> None:
    torch.manual_seed(0)
    network: MouthNetwork = TemporalAudio2Lip(scale(20), SIZE) if kind == "temporal" else Audio2Lip()
    last = network.leave if isinstance(network, TemporalAudio2Lip) else network.mapping
    torch.nn.init.normal_(last.weight)
    codes = mouth_codes(network.eval(), mel, NUM_FRAMES)
    assert (codes.shape, codes.dtype, codes.requires_grad) == ((NUM_FRAMES, 20), torch.float32, False)
    with torch.no_grad():
        torch.testing.assert_close(codes, network(frame_windows(mel, 0, NUM_FRAMES)[None])[0], atol=1e-4, rtol=0)


def test_an_audio2lip_sees_few_frames_at_once(mel: np.ndarray) -> None:
    seen: list[int] = []
    network = Audio2Lip().eval()
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    mouth_codes(network, mel, NUM_FRAMES)
    assert seen == [10, 10, 10, 7]


def flow() -> PoseFlow:
    torch.manual_seed(0)
    ones = torch.ones(6)
    network = PoseFlow(PoseStatistics(5 * ones, ones, 0.2 * ones, 3 * ones), PoseFlowSize(speech=SIZE, num_history=3))
    for name, weight in network.named_parameters():
        if any(part in name for part in ("leave", "gauss.weight", "linear")):
            torch.nn.init.normal_(weight, std=0.1)
    return network.eval()


def test_poses_depend_on_the_seed_and_move_about_their_rest(mel: np.ndarray) -> None:
    network, rest = flow(), torch.tensor([1.0, 2, 3, 4, 5, 6])
    first, again, other = (pose_codes(network, mel, NUM_FRAMES, PoseSampling(seed), rest) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((NUM_FRAMES, 6), torch.float32)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(first[0], rest)
    assert (first - rest).abs().max() <= 3 + 1e-5
    moved = pose_codes(network, mel, NUM_FRAMES, PoseSampling(1), rest + 1)
    torch.testing.assert_close(moved, first + 1, atol=1e-5, rtol=0)
    assert torch.equal(pose_codes(network, mel, NUM_FRAMES)[0], torch.full((6,), 5.0)), "the mean of the training clips"
    start = torch.tensor([1.5, 2, 3, 4, 5, 6])
    torch.testing.assert_close(pose_codes(network, mel, NUM_FRAMES, None, rest, start)[0], start)


def test_longer_audio_begins_like_its_beginning(mel: np.ndarray) -> None:
    """As far as the audio behind the end has no effect."""
    network = flow()
    whole, part = (pose_codes(network, mel, frames, PoseSampling(4)) for frames in (NUM_FRAMES, 30))
    known = 30 - network.speech.num_context_frames
    torch.testing.assert_close(whole[:known], part[:known], atol=1e-5, rtol=0)


def test_no_temperature_means_no_chance(mel: np.ndarray) -> None:
    network = flow()
    first, other = (pose_codes(network, mel, NUM_FRAMES, PoseSampling(seed, temperature=0)) for seed in (1, 2))
    assert torch.equal(first, other)


def test_expressions_of_an_emotion_of_audio_and_of_both(mel: np.ndarray) -> None:
    torch.manual_seed(0)
    table = EmotionTable(torch.randn(10), torch.randn(8, 10), torch.ones(8, dtype=torch.int64))
    network = ExpressionPredictor(scale(10), SIZE, table).eval()
    torch.nn.init.normal_(network.leave.weight)
    vector = torch.rand(8)
    from_emotion = expression_codes(network, NUM_FRAMES, vector)
    assert from_emotion.shape == (NUM_FRAMES, 10)
    # rows of one product may differ in the last bit: which kernel takes a row depends on the processor
    torch.testing.assert_close(from_emotion, from_emotion[:1].expand(NUM_FRAMES, -1), atol=1e-6, rtol=1e-5)
    rising = torch.linspace(0, 1, NUM_FRAMES)[:, None] * vector
    changing = expression_codes(network, NUM_FRAMES, rising)
    torch.testing.assert_close(changing[-1], from_emotion[0])
    torch.testing.assert_close(changing[18] - changing[0], (from_emotion[0] - changing[0]) / 2, atol=1e-5, rtol=0)
    from_audio, both = (
        expression_codes(network, NUM_FRAMES, mel=mel),
        expression_codes(network, NUM_FRAMES, rising, mel),
    )
    with torch.no_grad():
        expected = network(rising[None], frame_windows(mel, 0, NUM_FRAMES)[None])
    torch.testing.assert_close(from_audio, expected.from_audio[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(both, expected.both[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="an emotion or audio"):
        expression_codes(network, NUM_FRAMES)
