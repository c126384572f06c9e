"""Stage 4 at a tiny size: it learns, validates, draws, and survives a resume."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from models.edtalk.data import code_windows
from models.edtalk.data.encoded_clips import ClipCodes
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.pose_flow import PoseFlow, PoseFlowSize
from models.edtalk.networks.shape import Shape
from models.edtalk.networks.speech_encoder import SpeechSize
from models.edtalk.stages import audio2pose
from models.edtalk.stages.audio2pose import Config
from models.edtalk.weights.parent_state import part_of
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from models.training.evaluate import sample_image, validate
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot
from tests.synthetic_store import build_store

SHAPE = Shape(size_px=16, width=1 / 64, latent_dim=48)
FLOW = PoseFlowSize(speech=SpeechSize(width=16, num_layers=2), num_history=4, num_flows=2, num_hidden=8, dropout=0.2)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("pose") / "store", 4, 5, (25, 30))


def config(max_steps: int = 4, **changes: Any) -> Config:
    train = TrainConfig(max_steps=max_steps, batch_size=2)
    sizes = {"shape": SHAPE, "flow": FLOW, "num_frames": 28, "warmup_steps": 1}
    return Config.model_validate({"train": train} | sizes | changes)


def engine_of(settings: Config, snapshot: Snapshot) -> Engine:
    torch.manual_seed(0)
    state = {f"gen.{name}": value for name, value in EDTalk(settings.shape, has_expression=False).state_dict().items()}
    torch.manual_seed(settings.train.seed)
    return Engine(audio2pose.build(settings, snapshot, {"mouth_pose": state}), settings.train)


def test_the_stage_is_found_with_its_presets() -> None:
    stage = stages.find("edtalk", "audio2pose")
    assert (stage.PARENTS, stage.FEATURES) == (("mouth_pose",), ("mel", "landmarks"))
    assert stages.preset("edtalk", "audio2pose", "paper").train.max_steps == 40_000
    assert stages.preset("edtalk", "audio2pose", "smoke").weights() == ()


def test_the_loss_counts_the_frames_inside_only(snapshot: Snapshot) -> None:
    engine = engine_of(config(), snapshot)
    batch = dict(next(engine.batches()))
    batch["inside"] = torch.arange(28) < torch.tensor([28, 11])[:, None]
    flow = engine.learner.modules["pose_flow"].eval()
    motion = batch["codes"] - batch["mean"][:, None]
    with torch.no_grad():
        density = [flow(motion[i : i + 1, :n], batch["mel"][i : i + 1, :n]).flatten() for i, n in enumerate((28, 11))]
        found = audio2pose.nats(flow(motion, batch["mel"], batch["inside"]), batch)
    torch.testing.assert_close(found, -torch.cat(density).mean() / 6, atol=1e-4, rtol=0)


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
    assert set(figures) == {"nats", "spread", "spread_ratio", "speed", "speed_ratio"}
    assert all(math.isfinite(value) for value in figures.values())
    assert validate(engine) == figures, "the same samples each time"
    image = sample_image(engine)
    assert image is not None
    assert image.shape == (3, 4 * 128, 512)
    PoseFlow.of(part_of(engine.exported(), "pose_flow"))


def test_heads_that_sway_are_learned_and_sampled_alike(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes from an AR(1) process instead of a generator: validation says that samples go as far and as fast."""
    rng = np.random.default_rng(0)

    def swaying(num_frames: int) -> np.ndarray:
        state, frames = rng.normal(size=6), []
        for _ in range(num_frames):
            frames.append(state)
            state = 0.3 * state + math.sqrt(1 - 0.3**2) * rng.normal(size=6)
        return (np.stack(frames) * (1, 2, 3, 4, 5, 6) + rng.normal(size=6) * 10).astype(np.float32)

    def extracted(model: EDTalk, snapshot: Snapshot, clips: Sequence[ClipRef], num_workers: int) -> list[ClipCodes]:
        codes = [swaying(clip.num_frames) for clip in clips]
        return [ClipCodes(own, own, own[:, :0]) for own in codes]

    monkeypatch.setattr(code_windows, "extract_codes", extracted)
    engine = engine_of(config(100, learning_rate=2e-3), snapshot)
    before = validate(engine)
    for batch in engine.batches():
        engine.advance(batch)
    after = validate(engine)
    assert after["nats"] < before["nats"]
    assert after["spread_ratio"] == pytest.approx(1, abs=0.35)
    assert after["speed_ratio"] == pytest.approx(1, abs=0.2)


def test_an_odd_number_of_codes_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="must be even"):
        engine_of(config(shape=SHAPE.model_copy(update={"num_pose": 5})), snapshot)
