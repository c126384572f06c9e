"""Stage 5 at a tiny size: it learns emotions and audio, validates, draws, and survives a resume."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from models.edtalk.data import code_windows
from models.edtalk.data.encoded_clips import ClipCodes
from models.edtalk.inference.audio_codes import expression_codes
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.expression_predictor import ExpressionPredictor, Expressions, emotion_vector, intensity_of
from models.edtalk.networks.shape import Shape
from models.edtalk.networks.speech_encoder import SpeechSize
from models.edtalk.stages import audio2expression
from models.edtalk.stages.audio2expression import Config, emotion_vectors, squares_of
from models.edtalk.weights.parent_state import part_of
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from models.training.evaluate import sample_image, validate
from storage.emotions import EMOTIONS
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot
from tests.synthetic_store import build_store

SHAPE = Shape(size_px=16, width=1 / 64, latent_dim=48)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Eight takes of each of three subjects, one of each emotion, and a talk without emotion."""
    path = tmp_path_factory.mktemp("expression") / "store"
    return build_store(path, 3, 8, (12, 16), with_trouble=True, thresholds={})


def config(max_steps: int = 4, **changes: Any) -> Config:
    train = TrainConfig(max_steps=max_steps, batch_size=4)
    sizes = {"shape": SHAPE, "speech": SpeechSize(width=16, num_layers=2), "num_frames": 14, "learning_rate": 0.01}
    return Config.model_validate({"train": train} | sizes | changes)


def engine_of(settings: Config, snapshot: Snapshot, has_expression: bool = True) -> Engine:
    torch.manual_seed(0)
    model = EDTalk(settings.shape, has_expression)
    state = {f"gen.{name}": value for name, value in model.state_dict().items()}
    torch.manual_seed(settings.train.seed)
    return Engine(audio2expression.build(settings, snapshot, {"expression": state}), settings.train)


def test_the_stage_is_found_with_its_presets() -> None:
    stage = stages.find("edtalk", "audio2expression")
    assert (stage.PARENTS, stage.FEATURES) == (("expression",), ("mel", "landmarks"))
    assert set(stage.PRESETS) >= {"smoke", "paper"}


def test_the_loss_falls_on_a_fixed_batch(snapshot: Snapshot) -> None:
    engine = engine_of(config(), snapshot)
    batch = next(engine.batches())
    losses = []
    for _ in range(40):
        engine.advance(batch)
        losses.append(engine.take_means())
    for name in ("heard", "both"):
        assert losses[-1][name] < 0.8 * losses[0][name], name


def test_each_emotions_codes_come_back_with_their_intensity(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips whose codes are 2 + level / 3 x a vector of their emotion."""
    rows = {row["clip"]: row for row in snapshot.rows()}
    vectors = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    vectors[EMOTIONS.index("neutral")] = 0

    def extracted(model: EDTalk, snapshot: Snapshot, clips: Sequence[ClipRef], num_workers: int) -> list[ClipCodes]:
        found = []
        for clip in clips:
            emotion = rows[clip.clip]["emotion"]
            codes = 2 + (vectors[EMOTIONS.index(emotion)] / 3 if emotion else np.full(10, 1, np.float32))
            found.append(ClipCodes(*[np.tile(codes, (clip.num_frames, 1)).astype(np.float32)] * 3))
        return found

    monkeypatch.setattr(code_windows, "extract_codes", extracted)
    engine = engine_of(config(2), snapshot)
    for batch in engine.batches():
        engine.advance(batch)
    network = ExpressionPredictor.of(part_of(engine.exported(), "expression")).eval()
    for emotion, name in enumerate(EMOTIONS):
        if int(network.num_clips[emotion]):
            found = [expression_codes(network, 3, emotion_vector(torch.tensor(emotion), intensity_of(torch.tensor(level))))[1]
                     for level in (1, 2, 3)]  # fmt: skip
            # all clips are of level 1; the others lie on the line through it and neutral
            for level, codes in enumerate(found, start=1):
                expected = 2 + torch.from_numpy(vectors[emotion]) * level / 3
                torch.testing.assert_close(codes, expected, atol=1e-4, rtol=0, msg=f"{name} {level}")
    counted = [sum(row["emotion"] == name for row in snapshot.rows("train")) for name in EMOTIONS]
    assert network.num_clips.tolist() == counted
    assert sum(counted) < len(snapshot.rows("train")), "the talk has no emotion"


def test_clips_without_emotion_count_for_the_sound_only(snapshot: Snapshot) -> None:
    codes, inside = torch.zeros(2, 5, 10), torch.ones(2, 5, dtype=torch.bool)
    batch = {"codes": codes, "inside": inside, "emotion": torch.tensor([3, -1]), "level": torch.tensor([1, -1])}
    output = torch.stack([torch.full((5, 10), 1.0), torch.full((5, 10), 3.0)])
    found = squares_of(Expressions(output, output, output), batch)
    assert {name: float(squares) for name, (squares, _) in found.items()} == {"heard": 5, "both": 1}
    vectors = emotion_vectors(batch)
    assert vectors.shape == (2, 5, 8)
    assert vectors[0, 4, 3].item() == pytest.approx(1 / 3)
    assert not vectors[1].any()


def test_resuming_gives_the_same_weights(snapshot: Snapshot) -> None:
    unbroken, first, second = (engine_of(config(5), snapshot) for _ in range(3))
    for batch in unbroken.batches():
        unbroken.advance(batch)
    for _, batch in zip(range(3), first.batches(), strict=False):
        first.advance(batch)
    second.restore(*first.state())
    for batch in second.batches():
        second.advance(batch)
    expected = unbroken.exported()
    assert all(torch.equal(value, expected[name]) for name, value in second.exported().items())


def test_figures_images_and_the_model_file(snapshot: Snapshot) -> None:
    engine = engine_of(config(2), snapshot)
    figures = validate(engine)
    assert set(figures) == {"felt", "heard", "both", "still"}
    assert figures["still"] > 0
    image = sample_image(engine)
    assert image is not None
    assert image.shape[0] == 3
    tensors = engine.exported()
    ExpressionPredictor.of(part_of(tensors, "expression"))


def test_a_model_without_expressions_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="no expression bank"):
        engine_of(config(), snapshot, has_expression=False)
