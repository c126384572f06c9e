"""Modules of a parent stage's 'model' file, whose tensors are called `<module>.<key>`."""

from torch import Tensor

from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from models.edtalk.weights.published_checkpoints import NOT_PUBLISHED, State, fit_state


def part_of(state: State, module: str) -> dict[str, Tensor]:
    """The state dict of one module; empty when the file does not hold it."""
    prefix = f"{module}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def edtalk_of(state: State, shape: Shape, stage: str) -> EDTalk:
    """The EDTalk model 'gen' of the file, with those parts whose tensors it holds.

    Args:
        state: tensors of the file.
        shape: it was trained with.
        stage: for messages.

    Raises:
        WeightsError: the tensors are not those of a model of this shape.
    """
    own = part_of(state, "gen")
    model = EDTalk(shape, has_expression="direction_exp.weight" in own, has_rgb_residual=has_rgb_residual(own))
    fit_state(model, own, stage)
    return model


def has_rgb_residual(state: State) -> bool:
    """Whether a state dict of an EDTalk model has the part that is in no published file."""
    return any(key.startswith(NOT_PUBLISHED) for key in state)


def discriminator_of(state: State, shape: Shape, stage: str) -> Discriminator:
    """The discriminator 'dis' of the file, or a new one where the file has none.

    Raises:
        WeightsError: as `edtalk_of`.
    """
    discriminator, own = Discriminator(shape), part_of(state, "dis")
    if own:
        fit_state(discriminator, own, stage)
    return discriminator
