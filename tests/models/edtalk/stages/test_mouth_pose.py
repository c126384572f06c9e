"""Stage 1 at a tiny size: what is drawn from what, the losses, what is frozen, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import Shape
from models.edtalk.stages import mouth_pose
from models.edtalk.stages.mouth_pose import Config, CrossReconstruction, MouthPoseLearner
from models.nn.losses import logistic_discriminator_loss, logistic_generator_loss
from models.nn.perceptual import PerceptualLoss, random_vgg
from models.training import stages
from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine
from storage.errors import WeightsError
from storage.snapshot import Snapshot
from tests.models.edtalk.stages.tiny import (
    LOSSES,
    SHAPE,
    changed,
    resumes_exactly,
    under,
)
from tests.synthetic_store import build_store


def tiny(max_steps: int = 4, **settings: Any) -> Config:
    train = TrainConfig(max_steps=max_steps, batch_size=2, log_every=2, val_every=4, image_every=4)
    return Config(**{"train": train, "shape": SHAPE, "losses": LOSSES} | settings)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("stage") / "store", 4, 2, (12,))


@pytest.fixture(scope="module")
def parent() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return under("gen", Lia(SHAPE))


def build(snapshot: Snapshot, parent: dict[str, torch.Tensor], config: Config) -> MouthPoseLearner:
    torch.manual_seed(config.train.seed)
    return mouth_pose.build(config, snapshot, {"reconstruction": parent})


def given_images(num_pairs: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(num_pairs, 2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(3)]


def test_the_stage_is_found_behind_stage_0() -> None:
    stage = stages.find("edtalk", "mouth_pose")
    assert (stage.PARENTS, stage.FEATURES) == (("reconstruction",), ("landmarks",))
    paper, smoke = stage.PRESETS["paper"], stage.PRESETS["smoke"]
    assert paper.weights() == ("vgg19",)
    assert smoke.weights() == ()
    assert (paper.shape, paper.train.batch_size, smoke.shape.size_px) == (Shape(), 4, 256)


@torch.no_grad()
def test_a_face_gets_its_mouth_from_the_other_image_and_its_pose_from_its_own() -> None:
    """Against the model called in the ordinary way, one face at a time."""
    torch.manual_seed(0)
    model = CrossReconstruction(SHAPE, has_expression=False)
    reference, target, swapped = given_images()
    drawn = model(reference, target, swapped)
    for pair in range(3):
        for face in range(2):
            row, other = 2 * pair + face, 1 - face
            encoded = model.encode_identity(reference[pair, face][None])
            own = model.codes(model.encode(target[pair, face][None]))
            mouth = model.codes(model.encode(swapped[pair, other][None])).mouth
            pose = model.codes(model.encode(swapped[pair, face][None])).pose
            for codes, value in ((drawn.own_codes, own), (drawn.crossed_codes, Codes(mouth, pose))):
                torch.testing.assert_close(codes.mouth[row], value.mouth[0], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(codes.pose[row], value.pose[0], atol=1e-4, rtol=1e-4)
            crossed = Codes(drawn.crossed_codes.mouth[row : row + 1], drawn.crossed_codes.pose[row : row + 1])
            redrawn = model.dec(encoded, encoded.latent + model.motion(crossed, model.directions())[0])
            assert (redrawn[0] - drawn.crossed[row]).abs().mean() < 1e-2 * drawn.crossed.std()


def test_it_is_an_edtalk_with_the_same_tensors() -> None:
    plain = EDTalk(SHAPE, has_expression=False)
    assert CrossReconstruction(SHAPE, has_expression=False).state_dict().keys() == plain.state_dict().keys()


def test_it_starts_from_stage_0(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    learner = build(snapshot, parent, tiny())
    state = learner.modules["gen"].state_dict()
    for key, value in Lia(SHAPE).state_dict().items():
        assert f"gen.{key}" in parent
        if key.startswith("enc.fc."):
            layer, _, rest = key.removeprefix("enc.fc.").partition(".")
            if int(layer) < 4:
                assert torch.equal(state[f"fc.{layer}.{rest}"], parent[f"gen.{key}"])
        elif not key.startswith("dec.direction."):
            assert torch.equal(state[key], parent[f"gen.{key}"]), key
            assert value.shape == state[key].shape
    assert not learner.modules["gen"].has_expression
    assert learner.exported == ("gen", "dis")


def test_a_discriminator_in_the_parents_file_goes_on(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    trained = under("dis", Discriminator(SHAPE))
    learner = build(snapshot, parent | trained, tiny())
    assert all(torch.equal(value, trained[f"dis.{key}"]) for key, value in learner.modules["dis"].state_dict().items())


def test_a_parent_of_another_shape_is_one_clear_error(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"^reconstruction: its tensors are not those"):
        build(snapshot, parent, tiny(shape=SHAPE.model_copy(update={"latent_dim": 64})))


@pytest.mark.parametrize(
    ("trained", "frozen"),
    [
        ("all", ()),
        ("generator", ("enc.",)),
        ("navigation", ("enc.", "fc.", "dec.")),
    ],
)
def test_only_what_is_to_be_trained_changes(
    snapshot: Snapshot, parent: dict[str, torch.Tensor], trained: str, frozen: tuple[str, ...]
) -> None:
    learner = build(snapshot, parent, tiny(trained=trained))
    found = changed(learner, tiny().train, 3)
    assert not [key for key in found if key.startswith(frozen)] or not frozen
    alive = {
        key
        for key, weight in learner.modules["gen"].named_parameters()
        if not (frozen and key.startswith(frozen)) and ".noise." not in key and "to_rgb1" not in key
    }
    assert found == alive
    assert {"lip_fc.0.weight", "pose_fc.2.bias", "direction_lipnonlip.weight"} <= found


def test_losses_are_those_of_four_images_and_two_pairs_of_codes(
    snapshot: Snapshot, parent: dict[str, torch.Tensor]
) -> None:
    """Written out image by image as published, but with means over the batch, and with that of mouths."""
    config = tiny(feature_weight=3.0, mouth_weight=5.0)
    learner = build(snapshot, parent, config)
    reference, target, swapped = given_images(2)
    mouth = torch.zeros(2, 2, 1, 32, 32)
    mouth[..., 20:28, 10:22], mouth[1, 1, :, 28, 10:22] = 1.0, 0.5
    drawn = learner.modules["gen"](reference, target, swapped)
    dis, vgg = learner.modules["dis"], PerceptualLoss(random_vgg(width=1 / 16))
    total = torch.zeros(())
    for images in (drawn.own, drawn.crossed):
        for face in range(2):
            truth = target[:, face]
            total = total + vgg(images[face::2], truth) + functional.l1_loss(images[face::2], truth)
        errors = (images.unflatten(0, (2, 2)) - target).abs().mean(2, keepdim=True)
        total = total + 2 * 5.0 * torch.sum(errors * mouth) / mouth.sum() + 2 * logistic_generator_loss(dis(images))
    total = total / 4
    for name in ("mouth", "pose"):
        own, crossed = getattr(drawn.own_codes, name), getattr(drawn.crossed_codes, name)
        for face in range(2):
            cosine = (own * crossed).sum(1) / own.norm(dim=1) / crossed.norm(dim=1)
            total = total + 3.0 * torch.exp(-cosine[face::2]).mean() / 4
    expected_dis = logistic_discriminator_loss(dis(target.flatten(0, 1)), dis(drawn.crossed))
    seen: dict[str, torch.Tensor] = {}

    class Steps(Engine):
        def update(self, optimizer: str, loss: torch.Tensor) -> None:
            seen[optimizer] = loss.detach()

    learner.train_step(
        {"reference": reference, "target": target, "swapped": swapped, "mouth": mouth}, Steps(learner, config.train)
    )
    torch.testing.assert_close(seen["gen"], total.detach(), rtol=1e-4, atol=2.5e-5)
    torch.testing.assert_close(seen["dis"], expected_dis.detach(), rtol=1e-4, atol=1e-4)


def test_the_weight_of_codes_does_not_depend_on_the_batch(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    learner = build(snapshot, parent, tiny())
    single = [*(image[:1] for image in given_images()), torch.ones(1, 2, 1, 32, 32)]
    names = ("reference", "target", "swapped", "mouth")
    figures = []
    for count in (1, 4):
        batch = {name: image.repeat(count, 1, 1, 1, 1) for name, image in zip(names, single, strict=True)}
        seen: dict[str, torch.Tensor] = {}

        class Steps(Engine):
            def update(self, optimizer: str, loss: torch.Tensor) -> None:
                seen.setdefault(optimizer, loss)

        scalars = learner.train_step(batch, Steps(learner, tiny().train))
        figures.append((float(scalars["mouth"]), float(scalars["pose"])))
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)


def test_it_works_in_mixed_precision_and_resumes_exactly(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    half = TrainConfig(max_steps=1, batch_size=2, precision="bf16")
    assert changed(build(snapshot, parent, tiny(train=half)), half, 1)
    config = tiny(3)
    assert resumes_exactly(lambda: build(snapshot, parent, config), config.train, 2)


def test_validation_tells_both_ways_apart(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    learner = build(snapshot, parent, tiny())
    assert learner.val_set is not None
    target = torch.zeros(2, 2, 3, 32, 32)
    batch = {"reference": target + 0.5, "target": target, "swapped": target, "mouth": torch.ones(2, 2, 1, 32, 32)}

    class Grey(nn.Module):
        def forward(self, reference: torch.Tensor, target: torch.Tensor, swapped: torch.Tensor) -> Any:
            from models.edtalk.stages.mouth_pose import Crossed

            flat, one = target.flatten(0, 1), torch.ones(4, 20)
            other = torch.cat([torch.ones(4, 10), -torch.ones(4, 10)], dim=1)
            return Crossed(flat + 0.2, flat + 0.4, Codes(one, one[:, :6]), Codes(other, 2 * one[:, :6]))

    figures = {name: float(value) for name, value in learner.validate(batch, {"gen": Grey()}).items()}
    assert figures == pytest.approx(
        {
            "l1_still": 0.5,
            "l1_self": 0.2,
            "l1_cross": 0.4,
            "l1_mouth_self": 0.2,
            "l1_mouth_cross": 0.4,
            "psnr_self_db": 20.0,
            "psnr_cross_db": 13.979,
            "mouth_cos": 0.0,
            "pose_cos": 1.0,
        },
        abs=1e-3,
    )
    image = learner.sample_image(batch, {"gen": Grey()})
    assert image.shape == (3, 128, 160)
    assert image[0, 0, ::32].tolist() == pytest.approx([0.75, 0.5, 0.5, 0.6, 0.7])


def test_faces_missing_in_val_mean_no_validation(tmp_path: Path, parent: dict[str, torch.Tensor]) -> None:
    assert build(build_store(tmp_path / "store", 1, 2, (12,)), parent, tiny()).val_set is None


def test_the_rgb_residual_is_taken_along(snapshot: Snapshot, parent: dict[str, torch.Tensor]) -> None:
    learner = build(snapshot, parent, tiny(has_rgb_residual=True))
    residuals = {key for key in learner.modules["gen"].state_dict() if key.startswith("dec.rgb_residuals.")}
    assert residuals
    assert residuals <= changed(learner, tiny().train, 2)
