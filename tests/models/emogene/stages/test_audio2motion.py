"""The stage on a small real snapshot: it learns, validates, draws, and says clearly what it lacks."""

from typing import Any

import pytest
import torch

from models.emogene.stages import audio2motion
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from models.training.evaluate import sample_image, validate
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.rich_store import build_rich_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("audio2motion") / "store")


def config(max_steps: int, **changes: Any) -> audio2motion.Config:
    train = TrainConfig(max_steps=max_steps, batch_size=2, ema_decay=0.5)
    return audio2motion.Config(train=train, num_frames=24, warmup_steps=1, **changes)


def engine_of(settings: audio2motion.Config, snapshot: Snapshot) -> Engine:
    torch.manual_seed(settings.train.seed)
    return Engine(audio2motion.build(settings, snapshot, {}), settings.train)


def test_it_is_found_with_its_presets() -> None:
    assert "audio2motion" in stages.discover("emogene")
    paper = stages.preset("emogene", "audio2motion", "paper")
    assert isinstance(paper, audio2motion.Config)
    weights = (paper.position_weight, paper.velocity_weight, paper.divergence_weight)
    assert (weights, paper.learning_rate, paper.train.max_steps) == ((1, 3, 0.4), 5e-4, 40_000)


def test_the_loss_falls_on_a_fixed_batch(snapshot: Snapshot) -> None:
    engine = engine_of(config(15), snapshot)
    batch = next(engine.batches())
    figures = []
    for _ in range(15):
        engine.advance(batch)
        figures.append(engine.take_means())
    assert figures[-1]["position"] < 0.5 * figures[0]["position"]
    assert figures[-1]["velocity"] < 0.7 * figures[0]["velocity"]


def test_batches_with_missing_faces_leave_finite_weights_and_figures(snapshot: Snapshot) -> None:
    engine = engine_of(config(4), snapshot)
    assert any(not engine.learner.train_set[index]["valid"].all() for index in range(7))
    for batch in engine.batches():
        engine.advance(batch)
    assert all(torch.isfinite(weight).all() for weight in engine.learner.modules["vae"].parameters())
    figures = validate(engine)
    names = {"lm3d_mae", "lm3d_mae_reconstructed", "lm3d_mae_still", "mouth_mae"}
    assert set(figures) == names
    assert all(0 < value < 1 for value in figures.values())
    image = sample_image(engine)
    assert image is not None
    assert image.shape == (3, 2 * 128, 8 * 128)


def test_resumed_is_unbroken(snapshot: Snapshot) -> None:
    unbroken = engine_of(config(5), snapshot)
    for number, batch in enumerate(unbroken.batches()):
        unbroken.advance(batch)
        if number == 2:
            tensors, plain = unbroken.state()
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    resumed = engine_of(config(5), snapshot)
    resumed.restore(tensors, plain)
    for batch in resumed.batches():
        resumed.advance(batch)
    assert resumed.step == 5
    expected = unbroken.exported()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.exported().items())


def test_what_is_under_the_mask_does_not_reach_a_step(snapshot: Snapshot) -> None:
    def after(fill: float) -> dict[str, torch.Tensor]:
        engine = engine_of(config(1), snapshot)
        items = [engine.learner.train_set[index] for index in range(7)]
        gaps = [item for item in items if not item["valid"].all()][:2]
        batch = dict(engine.learner.collate(gaps))
        batch["motion"] = batch["motion"].masked_fill(~batch["valid"][..., None], fill)
        engine.advance(batch)
        return engine.learner.modules["vae"].state_dict()

    first, second = after(torch.nan), after(123.0)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_coefficients_can_be_the_target(snapshot: Snapshot) -> None:
    engine = engine_of(config(1, target="exp"), snapshot)
    engine.advance(next(engine.batches()))
    assert set(validate(engine)) == {"exp_mae", "exp_mae_reconstructed", "exp_mae_still"}
    assert sample_image(engine) is None
    assert engine.exported()["vae.leave.bias"].shape == (64,)


def test_statistics_are_in_the_model_file(snapshot: Snapshot) -> None:
    tensors = engine_of(config(1), snapshot).exported()
    assert tensors["vae.motion_scale.std"].shape == (204,)
    assert tensors["vae.condition.scale.mean"].shape == (80,)
    assert 1e-4 < tensors["vae.motion_scale.std"][0] < 1


def test_hubert_that_the_snapshot_lacks_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="hubert"):
        audio2motion.build(config(1, audio="hubert"), snapshot, {})
