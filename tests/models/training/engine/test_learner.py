"""The account of a figure that is to fall."""

import torch

from models.training.engine.learner import EarlyStop


def test_it_is_over_after_so_many_checks_without_a_new_lowest_figure() -> None:
    stop = EarlyStop(patience=2)
    assert not stop.has_begun
    assert [stop.note(figure) for figure in (3.0, 4.0, 2.5)] == [True, False, True]
    assert stop.has_begun
    assert (float(stop.best), int(stop.num_worse), stop.is_over) == (2.5, 0, False)
    assert [stop.note(figure) for figure in (2.5, 2.6)] == [False, False]
    assert stop.is_over
    assert float(stop.best) == 2.5


def test_a_figure_that_is_no_number_is_never_best() -> None:
    stop = EarlyStop(patience=3)
    assert not stop.note(float("nan"))
    assert not stop.has_begun
    assert stop.note(1.0)
    assert not stop.note(float("nan"))


def test_a_checkpoint_holds_all_of_it() -> None:
    first, second = EarlyStop(2), EarlyStop(2)
    for figure in (3.0, 4.0):
        first.note(figure)
    second.load_state_dict(first.state_dict())
    assert not second.note(3.5)
    assert second.is_over
    assert all(isinstance(value, torch.Tensor) for value in first.state_dict().values())
