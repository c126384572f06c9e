"""Stage 2 at a tiny size: it starts as stage 1, changes nothing of it, and expression comes to count."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.edtalk.data.face_frames import image_of
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from models.edtalk.stages import expression
from models.edtalk.stages.expression import Config, ExpressionLearner, drawn_ways, start_without_effect
from models.nn.perceptual import PerceptualLoss, random_vgg
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from storage.snapshot import Snapshot
from tests.models.edtalk.stages.tiny import (
    LOSSES,
    SHAPE,
    changed,
    resumes_exactly,
    some_items,
    store_without_faces,
    under,
)
from tests.synthetic_store import Look, build_store, draw_face, neutral_face

NEW = ("exp_fc.", "direction_exp.", "dec.fineadainresblock.")
NUM_PLAIN = SHAPE.num_mouth + SHAPE.num_pose


def tiny(max_steps: int = 4, **settings: Any) -> Config:
    train = TrainConfig(max_steps=max_steps, batch_size=2, log_every=2, val_every=4, image_every=4)
    return Config(**{"train": train, "shape": SHAPE, "losses": LOSSES} | settings)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("stage") / "store", 4, 2, (12,))


@pytest.fixture(scope="module")
def parent() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return under("gen", EDTalk(SHAPE, has_expression=False))


def build(snapshot: Snapshot, parent: dict[str, torch.Tensor], config: Config) -> ExpressionLearner:
    torch.manual_seed(config.train.seed)
    return expression.build(config, snapshot, {"mouth_pose": parent})


def stage_1(parent: dict[str, torch.Tensor]) -> EDTalk:
    model = EDTalk(SHAPE, has_expression=False)
    model.load_state_dict({key.removeprefix("gen."): value for key, value in parent.items()})
    return model


def alive(learner: ExpressionLearner, prefixes: tuple[str, ...]) -> set[str]:
    """Parameters under these names that have an effect."""
    dead = (".noise.", "to_rgb1", ".conv1.weight", ".conv1.bias", ".norm1.")
    names = (key for key, _ in learner.modules["gen"].named_parameters() if key.startswith(prefixes))
    return {key for key in names if not any(part in key for part in dead if "fineadain" in key or part in dead[:2])}


def test_the_stage_is_found_behind_stage_1() -> None:
    stage = stages.find("edtalk", "expression")
    assert (stage.PARENTS, stage.FEATURES) == (("mouth_pose",), ("landmarks",))
    paper, smoke = stage.PRESETS["paper"], stage.PRESETS["smoke"]
    assert paper.weights() == ("vgg19",)
    assert smoke.weights() == ()
    assert (paper.shape, smoke.shape.size_px) == (Shape(), 256)


@torch.no_grad()
def test_it_starts_exactly_where_stage_1_ended(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    """Bit for bit the images of the model without the new parts; and those of the model of stage 1 but for the
    rounding of a QR decomposition of 36 columns instead of 26."""
    learner = build(snapshot, parent, tiny())
    batch = some_items(learner, 3)
    ways = drawn_ways(learner.modules, batch)
    assert torch.equal(ways[""], ways["_mouth_pose"])
    assert torch.equal(ways["_without"], ways["_mouth_pose"])
    before = stage_1(parent)(batch["reference"], batch["target"])[0].clamp(-1, 1)
    torch.testing.assert_close(ways[""], before, atol=1e-3, rtol=1e-3)
    assert (ways[""] - before).abs().mean() < 1e-4


@torch.no_grad()
def test_without_the_start_the_new_parts_would_change_the_images(parent: dict[str, torch.Tensor]) -> None:
    """What the start is for: normalised random features added to the reference's are visible at once."""
    torch.manual_seed(0)
    model, batch = EDTalk(SHAPE), {name: torch.rand(2, 3, 32, 32) * 2 - 1 for name in ("reference", "target")}
    raw = drawn_ways({"gen": model}, batch)
    assert (raw[""] - raw["_mouth_pose"]).abs().mean() > 0.01
    start_without_effect(model)
    calm = drawn_ways({"gen": model}, batch)
    assert torch.equal(calm[""], calm["_mouth_pose"])


def test_only_the_new_parts_are_trained(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    learner = build(snapshot, parent, tiny(6))
    found = changed(learner, tiny(6).train, 6)
    assert found == alive(learner, NEW)
    state = learner.modules["gen"].state_dict()
    for key, value in parent.items():
        assert torch.equal(state[key.removeprefix("gen.")], value), key


def test_directions_of_mouth_and_pose_stay_those_of_stage_1(
    snapshot: Snapshot, parent: dict[str, torch.Tensor]
) -> None:
    """QR is nested: whatever is learned behind them, the first 26 directions are those of the smaller bank."""
    learner = build(snapshot, parent, tiny(6))
    assert "direction_exp.weight" in changed(learner, tiny(6).train, 6)
    with torch.no_grad():
        full, plain = learner.modules["gen"].directions(), stage_1(parent).directions()
    torch.testing.assert_close(full[:, :NUM_PLAIN], plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(full.T @ full, torch.eye(full.shape[1]), atol=1e-5, rtol=0)


def test_the_generator_joins_in_at_its_step_and_not_before(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    config = tiny(5, generator_from_step=3)
    learner = build(snapshot, parent, config)
    engine = Engine(learner, config.train)
    keys = {key.removeprefix("gen.") for key in parent}

    def touched() -> set[str]:
        state = learner.modules["gen"].state_dict()
        return {key for key in keys if not torch.equal(state[key], parent[f"gen.{key}"])}

    batches = engine.batches()
    for _ in range(3):
        engine.advance(next(batches))
    assert touched() == set()
    engine.advance(next(batches))
    assert touched() == alive(learner, ("dec.",)) - alive(learner, NEW)


def clip_of_faces(strength: np.ndarray, mouth_px: np.ndarray) -> torch.Tensor:
    """[N, 3, 32, 32] one person, with brows raised and skin reddened as an emotion may, and mouths open by so much."""
    frames = []
    for emotion, mouth in zip(strength, mouth_px, strict=True):
        points, look = neutral_face(), Look.of("S000")
        points[17:27, 1] -= 24 * emotion
        points[[*range(55, 60), 65, 66, 67], 1] += mouth
        red, green, blue = look.skin
        flushed = replace(look, skin=(red, round(green * (1 - emotion / 2)), round(blue * (1 - emotion / 2))))
        frames.append(image_of(draw_face(points.astype(np.float32), flushed), 32))
    return torch.stack(frames)


def speaking_model(rng: np.random.Generator) -> EDTalk:
    """Knows one face without emotion, whose mouth moves."""
    mouths = clip_of_faces(np.zeros(16), rng.uniform(0, 18, 16))
    model = EDTalk(SHAPE, has_expression=False)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=2e-3)
    for _ in range(80):
        chosen = torch.from_numpy(rng.integers(16, size=4))
        loss = (model(mouths[chosen.flip(0)], mouths[chosen])[0] - mouths[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_expression_comes_to_count(snapshot: Snapshot) -> None:
    """After a short training on a clip with emotion the expression code changes the images, which without it are
    further from the truth, and one of its numbers tells how strong the emotion is."""
    torch.manual_seed(1)
    rng, strength, config = np.random.default_rng(1), np.linspace(0, 1, 10), tiny()
    learner = build(snapshot, under("gen", speaking_model(rng)), config)
    target = clip_of_faces(strength, rng.uniform(0, 18, 10))
    batch = {"reference": clip_of_faces(np.zeros(1), np.zeros(1)).expand(10, -1, -1, -1), "target": target}
    engine = Engine(learner, config.train)
    for _ in range(80):
        chosen = torch.from_numpy(rng.integers(10, size=4))
        engine.advance({name: images[chosen] for name, images in batch.items()})
    model = engine.averages["gen"]
    with torch.no_grad():
        figures = learner.validate(batch, engine.averages)
        codes = model.codes(model.encode(target)).expression
    values = {name: round(float(value), 4) for name, value in figures.items()}
    assert values["effect"] > 0.01, values
    assert values["perceptual"] < 0.93 * values["perceptual_without"], values
    assert values["perceptual"] < 0.9 * values["perceptual_mouth_pose"], values
    assert values["l1"] < values["l1_mouth_pose"], values
    assert max(abs(np.corrcoef(code, strength)[0, 1]) for code in codes.T.numpy()) > 0.9


@pytest.mark.parametrize("generator_from_step", [None, 2])
def test_it_resumes_exactly(
    snapshot: Snapshot, parent: dict[str, torch.Tensor], generator_from_step: int | None
) -> None:
    config = tiny(4, generator_from_step=generator_from_step)
    assert resumes_exactly(lambda: build(snapshot, parent, config), config.train, 1)


def test_it_works_in_mixed_precision(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    half = TrainConfig(max_steps=1, batch_size=2, precision="bf16")
    assert "exp_fc.2.weight" in changed(build(snapshot, parent, tiny(train=half)), half, 1)


def test_validation_compares_all_ways_with_the_target(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    learner = build(snapshot, parent, tiny())
    batch = some_items(learner, 2)
    torch.nn.init.normal_(learner.modules["gen"].exp_fc[-1].weight)
    with torch.no_grad():
        figures, ways = learner.validate(batch, learner.modules), drawn_ways(learner.modules, batch)
        sample = learner.sample_image(batch, learner.modules)
    vgg = PerceptualLoss(random_vgg(width=1 / 16))
    for suffix, image in ways.items():
        assert float(figures[f"l1{suffix}"]) == pytest.approx(float((image - batch["target"]).abs().mean()))
        assert float(figures[f"perceptual{suffix}"]) == pytest.approx(float(vgg(image, batch["target"])), rel=1e-4)
    assert float(figures["effect"]) == pytest.approx(float((ways[""] - ways["_without"]).abs().mean()))
    assert float(figures["effect"]) > 0
    assert float(figures["l1_still"]) == pytest.approx(float((batch["reference"] - batch["target"]).abs().mean()))
    assert sample.shape == (3, 64, 160)
    torch.testing.assert_close(sample[:, :32, 128:], (ways[""][0] + 1) / 2)


def test_the_rgb_residual_and_the_discriminator_are_taken_along(tmp_path: Path) -> None:
    from models.edtalk.networks.discriminator import Discriminator

    parent = under("gen", EDTalk(SHAPE, has_expression=False, has_rgb_residual=True)) | under(
        "dis", Discriminator(SHAPE)
    )
    learner = build(build_store(tmp_path / "store", 1, 2, (12,)), parent, tiny())
    assert learner.val_set is None
    exported = Engine(learner, tiny().train).exported()
    assert all(torch.equal(exported[key], value) for key, value in parent.items())


def test_faces_missing_in_val_mean_no_validation(tmp_path: Path, parent: dict[str, torch.Tensor]) -> None:
    hidden = store_without_faces(tmp_path / "store", "S001")
    assert hidden.rows("val")
    assert build(hidden, parent, tiny()).val_set is None
