"""Stage 0 at a tiny size: it learns, survives a resume, and its model file is a LIA."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import default_collate

from models.edtalk.data.frame_pairs import FramePairs
from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.shape import Shape
from models.edtalk.stages import reconstruction
from models.edtalk.stages.reconstruction import Config, ReconstructionLearner
from models.edtalk.training.image_losses import ImageLossConfig, ImageLosses
from models.edtalk.weights.parent_state import part_of
from models.edtalk.weights.published_checkpoints import NOT_IN_LIA, fit_state, lia_to_edtalk
from models.nn.perceptual import PerceptualLoss, random_vgg
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from models.training.runs.fit import fit_stage
from models.training.runs.job import FitRequest
from storage.errors import WeightsError
from storage.runs import RunRecord
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from tests.conftest import REPOSITORY
from tests.models.edtalk.stages.tiny import store_without_faces
from tests.synthetic_store import build_store

SHAPE = Shape(size_px=32, width=1 / 32, latent_dim=48)
LOSSES = ImageLossConfig(perceptual="random", perceptual_width=1 / 16)


def tiny(**train: object) -> Config:
    settings = {"max_steps": 4, "batch_size": 2, "log_every": 2, "val_every": 4, "image_every": 4} | train
    return Config(train=TrainConfig.model_validate(settings), shape=SHAPE, losses=LOSSES)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("stage") / "store", 4, 2, (12,))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(snapshot: Snapshot, config: Config) -> ReconstructionLearner:
    torch.manual_seed(config.train.seed)
    return reconstruction.build(config, snapshot, {})


def test_the_stage_is_found_and_starts_from_nothing() -> None:
    stage = stages.find("edtalk", "reconstruction")
    assert (stage.PARENTS, stage.FEATURES) == ((), ("landmarks",))
    assert set(stage.PRESETS) >= {"smoke", "paper"}
    paper, smoke = stage.PRESETS["paper"], stage.PRESETS["smoke"]
    assert paper.weights() == ("vgg19",)
    assert smoke.weights() == ()
    assert paper.shape == Shape()
    assert paper.train.batch_size == 12
    assert smoke.shape.size_px == 256


def test_both_networks_learn_in_a_step_and_in_mixed_precision(snapshot: Snapshot) -> None:
    for precision in ("fp32", "bf16"):
        config = tiny(precision=precision)
        learner = build(snapshot, config)
        before = {name: [p.clone() for p in module.parameters()] for name, module in learner.modules.items()}
        engine = Engine(learner, config.train)
        engine.advance(next(engine.batches()))
        for name, module in learner.modules.items():
            trained = [(p, old) for p, old in zip(module.parameters(), before[name], strict=True) if p.requires_grad]
            unchanged = sum(torch.equal(p, old) for p, old in trained)
            assert unchanged <= len(trained) // 20, (precision, name)


def test_only_images_as_they_are_count_as_real(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(snapshot, tiny().model_copy(update={"mouth_weight": 1.0}))
    batch, shown = default_collate([learner.train_set[0], learner.train_set[1]]), []
    train = ImageLosses.train_discriminator

    def seen(losses: ImageLosses, real: torch.Tensor, fake: torch.Tensor, trainer: Any) -> Any:
        shown.append((real, fake))
        return train(losses, real, fake, trainer)

    monkeypatch.setattr(ImageLosses, "train_discriminator", seen)
    learner.train_step(batch, Engine(learner, tiny().train))
    ((real, fake),) = shown
    assert torch.equal(real, batch["target"].flatten(0, 1))
    assert len(fake) == 2 * len(real)


@pytest.mark.parametrize(
    ("first_step", "ways"), [(1, [("reference", "target")]), (0, [("reference", "target"), ("target", "swapped")])]
)
def test_with_a_weight_of_mouths_faces_are_also_redrawn_with_the_mouth_of_another(
    snapshot: Snapshot, first_step: int, ways: list[tuple[str, str]]
) -> None:
    """From that step on; the generator is given what it should be, and the loss is that written out face by face."""
    given = {"mouth_weight": 2.5, "first_mouth_step": first_step}
    config = tiny().model_copy(update={"losses": LOSSES.model_copy(update={"gan_weight": 0})} | given)
    learner = build(snapshot, config)
    assert isinstance(learner.train_set, SwapPairs)
    assert isinstance(learner.val_set, FramePairs)
    batch = default_collate([learner.train_set[0], learner.train_set[1]])
    generator, loss, drawn = learner.modules["gen"], [], []

    class Steps(Engine):
        def update(self, optimizer: str, loss_of_step: torch.Tensor) -> None:
            assert optimizer == "gen"
            loss.append(loss_of_step.detach())

        def module(self, name: str) -> Any:
            def draw(*images: torch.Tensor) -> torch.Tensor:
                drawn.append(images)
                return generator(*images)

            return draw

    parts = learner.train_step(batch, Steps(learner, config.train))
    ((reference, target),) = drawn
    faces = [(pair, face) for pair in range(2) for face in range(2)]
    assert torch.equal(reference, torch.stack([batch[name][place] for name, _ in ways for place in faces]))
    assert torch.equal(target, torch.stack([batch[name][place] for _, name in ways for place in faces]))
    output, mouth = generator(reference, target), torch.stack([batch["mouth"][place] for place in faces])
    errors = (output - target).abs().mean(1, keepdim=True)
    expected = {"l1": errors.mean()}
    if len(ways) == 2:
        each = torch.stack([(errors[row] * mouth[row % 4]).sum() for row in range(8)])
        expected["mouth_l1"] = each.sum() / (2 * mouth.sum())
    assert parts.keys() == expected.keys() | {"perceptual"}
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-4, atol=1e-4)
    weights = {"l1": 1.0, "mouth_l1": 2.5}
    total = PerceptualLoss(random_vgg(width=1 / 16))(output, target)
    total = total + sum(weights[name] * value for name, value in expected.items())
    torch.testing.assert_close(loss[0], total.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("gan_weight", "mouth_weight"), [(1.0, 0.0), (0.0, 0.0), (1.0, 2.0)])
def test_resuming_in_the_middle_of_an_epoch_gives_the_same_weights(
    snapshot: Snapshot, gan_weight: float, mouth_weight: float
) -> None:
    """Also with a discriminator that is left out, whose optimiser never makes a step, and with pairs of faces."""
    losses = LOSSES.model_copy(update={"gan_weight": gan_weight})
    config = tiny().model_copy(update={"losses": losses, "mouth_weight": mouth_weight, "first_mouth_step": 1})

    def start() -> Engine:
        return Engine(build(snapshot, config), config.train)

    unbroken, first, second = start(), start(), start()
    for batch in unbroken.batches():
        unbroken.advance(batch)
    for _, batch in zip(range(3), first.batches(), strict=False):
        first.advance(batch)
    second.restore(*first.state())
    for batch in second.batches():
        second.advance(batch)
    assert unbroken.step == second.step == 4
    expected, found = unbroken.state()[0], second.state()[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert any(name.startswith("optimizer/dis/") for name in found) == bool(gan_weight)


def test_validation_compares_the_redrawn_image_with_the_target(snapshot: Snapshot) -> None:
    learner = build(snapshot, tiny())
    batch = {"reference": torch.zeros(2, 3, 32, 32), "target": torch.full((2, 3, 32, 32), 0.5)}

    class Grey(torch.nn.Module):
        def forward(self, reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return target + 0.2

    figures = learner.validate(batch, {"gen": Grey()})
    assert figures["l1"].item() == pytest.approx(0.2)
    assert figures["l1_still"].item() == pytest.approx(0.5)
    assert figures["psnr_db"].item() == pytest.approx(20, abs=1e-3)
    image = learner.sample_image(batch, {"gen": Grey()})
    assert image.shape == (3, 64, 96)
    assert image[0, 0, ::32].tolist() == pytest.approx([0.5, 0.75, 0.85])


def test_a_split_without_clips_means_no_validation(tmp_path: Path) -> None:
    small = build_store(tmp_path / "store", 1, 2, (12,))
    assert build(small, tiny()).val_set is None


def test_faces_missing_in_val_mean_no_validation(tmp_path: Path) -> None:
    hidden = store_without_faces(tmp_path / "store", "S001")
    assert hidden.rows("val")
    assert build(hidden, tiny()).val_set is None


def test_missing_weights_are_one_clear_error(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TALKSET_ALLOW_DOWNLOAD", raising=False)
    with pytest.raises(WeightsError, match="vgg19"):
        build(snapshot, tiny().model_copy(update={"losses": ImageLossConfig()}))


def fit(store: Path, kill_step: int | None = None) -> RunRecord:
    """Fits the stage; SIGKILL before this step."""
    advance = Engine.advance

    def deadly(self: Engine, batch: Any) -> None:
        if self.step == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "advance", deadly)
        request = FitRequest(
            store, "latest", "edtalk", "reconstruction", tiny(save_every=2), "smoke", {}, "0.0.0", "cpu", is_quiet=True
        )
        return fit_stage(request)


def test_killed_between_checkpoints_and_resumed_it_leaves_the_same_files(tmp_path: Path) -> None:
    """kill -9 of a process of its own; model and state are equal byte for byte to those of an unbroken run."""
    store = tmp_path / "store"
    build_store(store, 4, 2, (12,))
    code = f"from pathlib import Path; from {__name__} import fit; fit(Path({str(store)!r}), kill_step=3)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == -signal.SIGKILL
    resumed = fit(store)
    assert [session.first_step for session in resumed.sessions] == [0, 2]
    shutil.rmtree(run_folder(store, resumed.id))
    unbroken = fit(store)
    assert len(unbroken.sessions) == 1
    assert unbroken.checkpoints == resumed.checkpoints


def test_a_finished_run_leaves_a_lia_that_edtalk_can_start_from(tmp_path: Path) -> None:
    build_store(tmp_path / "store", 4, 2, (12,))
    run = fit(tmp_path / "store")
    assert run.state == "done"
    assert {"l1", "psnr_db"} <= {name.split("/")[-1] for name in run.metrics}
    tensors = load_file(run_folder(tmp_path / "store", run.id) / run.model().file)
    state = part_of(tensors, "gen")
    Lia(SHAPE).load_state_dict(state)
    Discriminator(SHAPE).load_state_dict(part_of(tensors, "dis"))
    assert {name.partition(".")[0] for name in tensors} == {"gen", "dis"}
    fit_state(EDTalk(SHAPE), lia_to_edtalk(state), run.id, NOT_IN_LIA)
