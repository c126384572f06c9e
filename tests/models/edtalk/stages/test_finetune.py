"""The person fine-tune at a tiny size: what is trained, held out, kept, and when it stops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from models.edtalk.stages import finetune
from models.edtalk.stages.finetune import Config, FinetuneLearner
from models.edtalk.weights.parent_state import edtalk_of
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from models.training.evaluate import validate
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.models.edtalk.stages.tiny import (
    LOSSES,
    SHAPE,
    changed,
    resumes_exactly,
    under,
)
from tests.synthetic_store import build_store


def tiny(max_steps: int = 6, **settings: Any) -> Config:
    train = TrainConfig(max_steps=max_steps, batch_size=2, log_every=2, val_every=4, image_every=4)
    chosen = {"train": train, "shape": SHAPE, "losses": LOSSES, "check_every": 2, "num_checked": 3}
    return Config(**chosen | settings)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("stage") / "store", 4, 2, (12,))


@pytest.fixture(scope="module")
def parent() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return under("gen", EDTalk(SHAPE)) | under("dis", Discriminator(SHAPE))


def build(snapshot: Snapshot, parent: dict[str, torch.Tensor], config: Config) -> FinetuneLearner:
    torch.manual_seed(config.train.seed)
    return finetune.build(config, snapshot, {"expression": parent})


def scripted(learner: FinetuneLearner, figures: list[float]) -> list[int]:
    """Makes the held-out losses up; returns a list that fills with the steps at which they were asked for."""
    asked: list[int] = []

    def held_out(trainer: Any) -> float:
        asked.append(trainer.step)
        return figures[len(asked) - 1]

    learner._held_out_loss = held_out  # type: ignore[method-assign]
    return asked


def run(learner: FinetuneLearner, config: Config) -> list[dict[str, torch.Tensor]]:
    """Trains; the state of 'trained' before the first and after each step."""
    engine, states = Engine(learner, config.train), [state_of(learner, "trained")]
    for batch in engine.batches():
        engine.advance(batch)
        states.append(state_of(learner, "trained"))
    return states


def state_of(learner: FinetuneLearner, name: str) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in learner.modules[name].state_dict().items()}


def is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_stage_is_found_behind_stage_2() -> None:
    stage = stages.find("edtalk", "finetune")
    assert (stage.PARENTS, stage.FEATURES) == (("expression",), ("landmarks",))
    paper, smoke = stage.PRESETS["paper"], stage.PRESETS["smoke"]
    assert paper.weights() == ("vgg19",)
    assert smoke.weights() == ()
    assert (paper.shape, paper.train.batch_size, paper.trained) == (Shape(), 32, "decoder")
    assert smoke.shape.size_px == 256


def test_one_subject_is_learned_and_its_last_frames_are_not(
    snapshot: Snapshot, parent: dict[str, torch.Tensor]
) -> None:
    learner = build(snapshot, parent, tiny(subject="S002"))
    learned, held_out = (
        {(clip.name, frame) for clip, frame in part.frames} for part in (learner.train_set, learner.val_set)
    )
    assert not learned & held_out
    assert {name.partition("#")[0] for name, _ in learned | held_out} == {"S002"}
    assert {name: min(frame for at, frame in held_out if at == name) for name, _ in held_out} == {
        name: 1 + max(frame for at, frame in learned if at == name) for name, _ in learned
    }
    with pytest.raises(ConfigError, match="no subject 'nobody'"):
        build(snapshot, parent, tiny(subject="nobody"))


@pytest.mark.parametrize("trained", ["decoder", "all"])
def test_only_what_is_to_be_trained_changes(snapshot: Snapshot, parent: dict[str, torch.Tensor], trained: str) -> None:
    config = tiny(3, trained=trained)
    learner = build(snapshot, parent, config)
    found = changed(learner, config.train, 3, "trained")
    parts = {key.partition(".")[0] for key in found}
    assert parts == ({"dec"} if trained == "decoder" else {key.partition(".")[0] for key in state_of(learner, "gen")})


def test_the_best_weights_are_kept_and_exported(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    """Measured before the first step (5.0) and after every second one: the lowest is that after step 4."""
    config = tiny(8)
    learner = build(snapshot, parent, config)
    asked = scripted(learner, [5.0, 4.0, 3.0, 3.5, 4.5])
    states = run(learner, config)
    assert asked == [0, 1, 3, 5, 7]
    assert is_equal(state_of(learner, "gen"), states[4])
    assert not is_equal(state_of(learner, "gen"), states[8])
    exported = Engine(learner, config.train).exported()
    assert set(exported) == {f"gen.{key}" for key in states[4]}
    assert all(torch.equal(value, states[4][key.removeprefix("gen.")]) for key, value in exported.items())


def test_a_model_that_only_gets_worse_stays_as_it_was(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    config = tiny(4)
    learner = build(snapshot, parent, config)
    scripted(learner, [1.0, 2.0, 3.0])
    run(learner, config)
    assert all(torch.equal(value, parent[f"gen.{key}"]) for key, value in state_of(learner, "gen").items())


def test_it_stops_when_the_loss_has_not_fallen_for_long_enough(
    snapshot: Snapshot, parent: dict[str, torch.Tensor]
) -> None:
    config = tiny(12, patience=2)
    learner = build(snapshot, parent, config)
    asked = scripted(learner, [5.0, 4.0, 4.5, 4.1])
    states = run(learner, config)
    assert asked == [0, 1, 3, 5]
    assert len(states) == 1 + 6
    assert is_equal(state_of(learner, "gen"), states[2])


def test_the_held_out_loss_is_that_of_the_last_frames(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    """Perceptual and pixel loss without the adversarial one, mean over evenly spread held-out frames."""
    from torch.nn import functional

    from models.nn.perceptual import PerceptualLoss, random_vgg

    config = tiny(num_checked=3)
    learner = build(snapshot, parent, config)
    vgg, losses = PerceptualLoss(random_vgg(width=1 / 16)), []
    last = len(learner.val_set) - 1
    with torch.no_grad():
        for index in (0, round(last / 2), last):
            item = learner.val_set[index]
            target = item["target"][None]
            output = learner.modules["trained"](item["reference"][None], target)[0]
            losses.append(float(vgg(output, target) + functional.l1_loss(output, target)))
    assert learner._held_out_loss(Engine(learner, config.train)) == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_learning_lowers_the_held_out_loss(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    config = tiny(30, check_every=5)
    learner = build(snapshot, parent, config)
    engine = Engine(learner, config.train)
    before, figures = learner._held_out_loss(engine), validate(engine)
    for batch in engine.batches():
        engine.advance(batch)
    assert learner._stop.best < 0.8 * before
    assert validate(engine)["l1"] < figures["l1"]


def test_it_resumes_exactly_and_remembers_the_best(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    config = tiny(5)
    assert resumes_exactly(lambda: build(snapshot, parent, config), config.train, 3)
    first, second = build(snapshot, parent, config), build(snapshot, parent, config)
    scripted(first, [5.0, 4.0, 4.5])
    engines = [Engine(learner, config.train) for learner in (first, second)]
    for _, batch in zip(range(4), engines[0].batches(), strict=False):
        engines[0].advance(batch)
    engines[1].restore(*engines[0].state())
    assert (float(second._stop.best), int(second._stop.num_worse)) == (4.0, 1)
    assert is_equal(state_of(second, "gen"), state_of(first, "gen"))


def test_validation_and_image_show_the_best(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    learner = build(snapshot, parent, tiny())
    batch = {"reference": torch.zeros(2, 3, 32, 32), "target": torch.full((2, 3, 32, 32), 0.5)}

    class Shifted(torch.nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, reference: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, None]:
            return target + self.shift, None

    modules = {"gen": Shifted(0.2), "trained": Shifted(0.4)}
    figures = {name: float(value) for name, value in learner.validate(batch, modules).items()}
    assert figures == pytest.approx({"l1": 0.2, "l1_still": 0.5, "psnr_db": 20.0}, abs=1e-3)
    assert learner.sample_image(batch, modules)[0, 0, ::32].tolist() == pytest.approx([0.5, 0.75, 0.85, 0.95])


def test_a_finished_run_leaves_the_model_as_stage_2_does(tmp_path: Path, parent: dict[str, torch.Tensor]) -> None:
    """Through the whole engine: the last stage of a chain of fitted runs."""
    from models.edtalk.stages import expression, mouth_pose, reconstruction
    from models.training.runs.fit import fit_stage
    from models.training.runs.job import FitRequest
    from storage.store_layout import run_folder

    snapshot, runs, run = build_store(tmp_path / "store", 4, 1, (12,)), {}, None
    train = TrainConfig(max_steps=1, batch_size=2)
    for name, stage in (
        ("reconstruction", reconstruction),
        ("mouth_pose", mouth_pose),
        ("expression", expression),
        ("finetune", finetune),
    ):
        config = stage.Config(train=train, shape=SHAPE, losses=LOSSES)
        request = FitRequest(
            tmp_path / "store", snapshot.id, "edtalk", name, config, "smoke", runs, "0.0.0", "cpu", is_quiet=True
        )
        runs[name] = run = fit_stage(request)
        assert run.state == "done"
    assert run is not None
    tensors = load_file(run_folder(tmp_path / "store", run.id) / run.model().file)
    assert edtalk_of(tensors, SHAPE, "finetune").has_expression
    assert {key.partition(".")[0] for key in tensors} == {"gen"}
