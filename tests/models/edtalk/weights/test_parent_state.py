"""Modules from the files of parent stages."""

import pytest
import torch

from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from models.edtalk.weights.parent_state import discriminator_of, edtalk_of, has_rgb_residual, part_of
from storage.errors import WeightsError

SHAPE = Shape(size_px=16, width=1 / 32, latent_dim=40)


def under(name: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def test_parts_have_the_name_before_the_first_dot() -> None:
    value = torch.zeros(1)
    state = {"gen.dec.weight": value, "generator.x": value, "dis.gen.y": value}
    assert list(part_of(state, "gen")) == ["dec.weight"]
    assert list(part_of(state, "dis")) == ["gen.y"]
    assert part_of(state, "other") == {}


@pytest.mark.parametrize("has_expression", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
def test_the_model_has_the_parts_that_the_file_holds(has_expression: bool, has_residual: bool) -> None:
    model = EDTalk(SHAPE, has_expression, has_residual)
    found = edtalk_of(under("gen", model), SHAPE, "stage")
    assert (found.has_expression, found.dec.has_rgb_residual) == (has_expression, has_residual)
    assert has_rgb_residual(model.state_dict()) == has_residual
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)


def test_another_shape_is_one_clear_error() -> None:
    with pytest.raises(WeightsError, match=r"^expression: .* of another shape"):
        edtalk_of(under("gen", EDTalk(SHAPE)), SHAPE.model_copy(update={"latent_dim": 48}), "expression")


def test_the_discriminator_is_the_parents_or_a_new_one() -> None:
    trained = Discriminator(SHAPE)
    found = discriminator_of(under("dis", trained), SHAPE, "stage")
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in trained.state_dict().items())
    torch.manual_seed(1)
    new = discriminator_of({}, SHAPE, "stage")
    torch.manual_seed(1)
    expected = Discriminator(SHAPE)
    assert all(torch.equal(value, new.state_dict()[key]) for key, value in expected.state_dict().items())
