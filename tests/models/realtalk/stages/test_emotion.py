"""The stage on a small real snapshot: it learns, neutral comes to add nothing, and it says what it lacks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.realtalk.stages import emotion
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from models.training.evaluate import sample_image, validate
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.rich_store import build_rich_store
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("emotion") / "store")


def config(max_steps: int, **changes: Any) -> emotion.Config:
    train = TrainConfig(max_steps=max_steps, batch_size=2, ema_decay=0.5)
    return emotion.Config(train=train, num_frames=24, num_layers=1, warmup_steps=1, **changes)


def engine_of(settings: emotion.Config, snapshot: Snapshot) -> Engine:
    torch.manual_seed(settings.train.seed)
    return Engine(emotion.build(settings, snapshot, {}), settings.train)


def whole_set(engine: Engine) -> Any:
    items = [engine.learner.train_set[index] for index in range(4)]
    return engine.learner.collate(items)


def test_it_is_found_with_its_presets() -> None:
    assert "emotion" in stages.discover("realtalk")
    published = stages.preset("realtalk", "emotion", "published")
    assert isinstance(published, emotion.Config)
    assert (published.model, published.learning_rate, published.train.batch_size) == ("resatt", 5e-4, 32)
    assert {"smoke", "paper"} <= set(stages.find("realtalk", "emotion").PRESETS)


@pytest.mark.parametrize("model", ["temporal", "resatt"])
def test_the_loss_falls_on_a_fixed_batch_and_neutral_adds_little(snapshot: Snapshot, model: str) -> None:
    engine = engine_of(config(80, model=model), snapshot)
    batch = whole_set(engine)
    losses = []
    for _ in range(80):
        engine.advance(batch)
        losses.append(engine.take_means()["position"])
    assert losses[-1] < 0.1 * losses[0]
    engine.learner.modules["residual"].eval()
    with torch.no_grad():
        figures = engine.learner.validate(batch, engine.learner.modules)
    assert figures["residual_mae"] < 0.5 * figures["residual_mae_none"]
    assert figures["neutral_residual"] < 0.5 * figures["residual_mae_none"]


def test_the_neutral_residual_goes_to_zero(snapshot: Snapshot) -> None:
    engine = engine_of(config(60), snapshot)
    batch, residuals = whole_set(engine), []
    for _ in range(60):
        engine.advance(batch)
        with torch.no_grad():
            residuals.append(float(engine.learner.validate(batch, engine.learner.modules)["neutral_residual"]))
    assert residuals[-1] < 0.15 * residuals[0]


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
        batch = dict(whole_set(engine))
        for name, mask in (("motion", "valid"), ("residual", "residual_valid")):
            batch[mask] = batch[mask] & (torch.arange(24) % 7 > 1)
            batch[name] = batch[name].masked_fill(~batch[mask][..., None], fill)
        engine.advance(batch)
        return engine.learner.modules["residual"].state_dict()

    first, second = after(torch.nan), after(99.0)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_trains_validates_and_draws_without_pairs_in_val(snapshot: Snapshot) -> None:
    engine = engine_of(config(3), snapshot)
    assert engine.learner.val_set is None
    for batch in engine.batches():
        engine.advance(batch)
    assert validate(engine) == {}
    image = sample_image(engine)
    assert image is not None
    assert image.shape == (3, 4 * 128, 8 * 128)
    assert engine.exported()["residual.residual_scale.std"].shape == (204,)


def test_a_snapshot_without_neutral_clips_or_features_is_refused(tmp_path: Path, snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="hubert"):
        emotion.build(config(1, audio="hubert"), snapshot, {})
    bare = build_store(tmp_path / "bare", num_frames=(25,))
    with pytest.raises(ConfigError, match="face3d"):
        emotion.build(config(1), bare, {})
