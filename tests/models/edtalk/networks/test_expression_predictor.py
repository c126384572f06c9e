"""Emotion vectors, and the parts of emotion and audio in an expression: each learned by itself, recovered exactly."""

import numpy as np
import torch
from numpy.typing import NDArray

from models.edtalk.networks.expression_predictor import (
    EmotionTable,
    ExpressionPredictor,
    emotion_table,
    emotion_vector,
    intensity_of,
)
from models.edtalk.networks.speech_encoder import SpeechSize
from models.nn.standardiser import Standardiser
from storage.emotions import EMOTIONS

SIZE = SpeechSize(width=16, num_layers=2)
HAPPY, NEUTRAL, SAD = (EMOTIONS.index(name) for name in ("happy", "neutral", "sad"))


def predictor(num_codes: int = 5) -> ExpressionPredictor:
    torch.manual_seed(0)
    scale = Standardiser(torch.linspace(-2, 2, num_codes), torch.linspace(0.5, 3, num_codes))
    table = EmotionTable(torch.randn(num_codes), torch.randn(8, num_codes), torch.arange(8))
    return ExpressionPredictor(scale, SIZE, table)


def test_a_mood_is_an_emotion_as_strong_as_its_intensity() -> None:
    emotions = emotion_vector(torch.tensor([HAPPY, NEUTRAL, SAD, -1]), torch.tensor([0.5, 1.0, 2.0, 1.0]))
    expected = torch.zeros(4, 8)
    expected[0, HAPPY], expected[2, SAD] = 0.5, 2.0
    assert torch.equal(emotions, expected)
    over_time = emotion_vector(torch.full((7,), HAPPY), torch.linspace(0, 1, 7))
    torch.testing.assert_close(over_time[:, HAPPY], torch.linspace(0, 1, 7))


def test_levels_are_thirds_and_an_unknown_one_is_full() -> None:
    found = intensity_of(torch.tensor([1, 2, 3, -1, 9, 0]))
    torch.testing.assert_close(found, torch.tensor([1 / 3, 2 / 3, 1, 1, 1, 1 / 3]))


def test_intensity_scales_what_an_emotion_adds_and_emotions_add_up() -> None:
    network = predictor()
    neutral, happy, sad = (network.from_emotion(emotion_vector(torch.tensor(emotion), torch.tensor(1.0)))
                           for emotion in (NEUTRAL, HAPPY, SAD))  # fmt: skip
    assert torch.equal(neutral, network.neutral)
    for strength in (0.0, 0.4, 1.5):
        found = network.from_emotion(emotion_vector(torch.tensor(HAPPY), torch.tensor(strength)))
        torch.testing.assert_close(found, neutral + strength * (happy - neutral))
    both = torch.zeros(8)
    both[HAPPY], both[SAD] = 0.3, 0.7
    torch.testing.assert_close(network.from_emotion(both), neutral + 0.3 * (happy - neutral) + 0.7 * (sad - neutral))


def noisy_clips(emotion: list[int], level: list[int]) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
    """Clips of 5 to 60 frames about what a known table says of them, and that table [9, 4], neutral first."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(9, 4))
    clips = []
    for kind, strength in zip(emotion, level, strict=True):
        shown = table[0] + (0 if kind == NEUTRAL else table[1 + kind] * strength / 3)
        clips.append((shown + 0.1 * rng.normal(size=(int(rng.integers(5, 61)), 4))).astype(np.float32))
    return clips, table


def test_the_table_is_the_least_squares_one_of_all_frames() -> None:
    emotion, level = [NEUTRAL, HAPPY, HAPPY, SAD, HAPPY] * 4, [1, 1, 3, 2, 2] * 4
    clips, table = noisy_clips(emotion, level)
    stray = np.full((500, 4), 9, np.float32)
    found = emotion_table([*clips, stray], torch.tensor([*emotion, -1]), torch.tensor([*level, -1]))
    strength = np.repeat(np.array(level) / 3, [len(clip) for clip in clips])
    kind = np.repeat(emotion, [len(clip) for clip in clips])
    design = np.stack([np.ones(len(kind)), (kind == HAPPY) * strength, (kind == SAD) * strength], axis=1)
    expected = np.linalg.lstsq(design, np.concatenate(clips).astype(float), rcond=None)[0]
    np.testing.assert_allclose(found.neutral, expected[0], atol=1e-5)
    np.testing.assert_allclose(found.directions[[HAPPY, SAD]], expected[1:], atol=1e-5)
    np.testing.assert_allclose(found.directions[[HAPPY, SAD]], table[[1 + HAPPY, 1 + SAD]], atol=0.1)
    assert not found.directions[[kind for kind in range(8) if kind not in (HAPPY, SAD)]].any(), "never seen"
    assert found.num_clips.tolist() == [0, 0, 0, 0, 12, 4, 4, 0]


def test_frames_without_a_face_have_no_say() -> None:
    clips, _ = noisy_clips([HAPPY, NEUTRAL, SAD], [3, 1, 2])
    gappy = [np.insert(own, [0, 2, 2], np.nan, axis=0) for own in clips]
    labels = torch.tensor([HAPPY, NEUTRAL, -1]), torch.tensor([3, 1, 2])
    for found, expected in zip(emotion_table(gappy, *labels), emotion_table(clips, *labels), strict=True):
        torch.testing.assert_close(found, expected)


def test_without_labels_everything_is_the_mean() -> None:
    clips, _ = noisy_clips([HAPPY, SAD], [1, 2])
    found = emotion_table(clips, torch.tensor([-1, -1]), torch.tensor([-1, -1]))
    np.testing.assert_allclose(found.neutral, np.concatenate(clips).mean(axis=0), atol=1e-6)
    assert not found.directions.any()
    assert not found.num_clips.any()


def test_one_emotion_without_neutral_clips_is_still_shown_right() -> None:
    clips, _ = noisy_clips([HAPPY] * 3, [3] * 3)
    found = emotion_table(clips, torch.tensor([HAPPY] * 3), torch.tensor([3] * 3))
    np.testing.assert_allclose(found.neutral + found.directions[HAPPY], np.concatenate(clips).mean(axis=0), atol=1e-5)


def test_sound_adds_what_the_emotion_does_not_say() -> None:
    """Faces that also follow the loudness: with the emotion known the rest is found, without it some of the emotion."""
    rng = np.random.default_rng(0)
    emotion = torch.tensor([NEUTRAL, HAPPY, SAD] * 4)
    emotions = emotion_vector(emotion, torch.ones(12))[:, None].expand(-1, 12, -1)
    loud = torch.from_numpy(rng.uniform(-1, 1, (12, 12))).float()
    audio = 4 * loud[..., None, None, None].expand(-1, -1, 1, 80, 16)
    looks = torch.from_numpy(rng.normal(size=(8, 5))).float()
    codes = looks[emotion][:, None] + loud[..., None] * torch.tensor([1.0, -1.0, 0.0, 0.5, 0.0])
    table = emotion_table([own.numpy() for own in codes], emotion, torch.full((12,), 3))
    torch.manual_seed(0)
    network = ExpressionPredictor(Standardiser(codes.mean((0, 1)), codes.std((0, 1))), SIZE, table)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(120):
        output = network(emotions, audio)
        loss = (output.from_audio - codes).square().mean() + (output.both - codes).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        from_emotion, from_audio, both = ((part - codes).square().mean().item() for part in network(emotions, audio))
    assert both < 0.2 * from_emotion
    assert both < from_audio < codes.var((0, 1)).mean().item()
    assert torch.equal(network.directions, table.directions), "what emotions look like is not trained"


def test_the_network_is_told_by_its_tensors() -> None:
    network = predictor()
    again = ExpressionPredictor.of(network.state_dict())
    emotions, audio = torch.rand(1, 4, 8), torch.randn(1, 4, 1, 80, 16)
    assert all(torch.equal(a, b) for a, b in zip(network(emotions, audio), again(emotions, audio), strict=True))
    assert again.num_clips.tolist() == list(range(8))
