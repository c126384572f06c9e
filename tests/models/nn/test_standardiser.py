"""Statistics against numpy's; scaling and its inverse."""

import numpy as np
import torch

from models.nn.standardiser import MIN_STD, Moments

ROWS = np.random.default_rng(0).normal((1, -2, 5), (0.5, 3, 0.01), (500, 3)).astype(np.float32)


def moments() -> Moments:
    found = Moments(3)
    for part in np.array_split(ROWS, 7):
        found.add(part)
    return found


def test_standardised_rows_have_mean_0_and_spread_1() -> None:
    scaled = moments().standardiser()(torch.from_numpy(ROWS)).double()
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(0, correction=0), 1, atol=1e-3)


def test_a_shared_spread_keeps_proportions() -> None:
    scale = moments().standardiser(is_std_shared=True)
    np.testing.assert_allclose(scale.std, np.full(3, np.sqrt(ROWS.var(axis=0).mean())), rtol=1e-5)
    np.testing.assert_allclose(scale.mean, ROWS.mean(axis=0), rtol=1e-5)


def test_without_centring_zero_stays_zero() -> None:
    scale = moments().standardiser(is_centred=False)
    assert not scale(torch.zeros(2, 3)).any()
    np.testing.assert_allclose(scale.std, np.sqrt(np.square(ROWS).mean(axis=0)), rtol=1e-5)


def test_undo_is_the_inverse_and_statistics_are_saved_but_not_trained() -> None:
    scale = moments().standardiser()
    torch.testing.assert_close(scale.undo(scale(torch.from_numpy(ROWS))), torch.from_numpy(ROWS))
    assert set(scale.state_dict()) == {"mean", "std"}
    assert not list(scale.parameters())


def test_a_constant_channel_is_not_blown_up() -> None:
    constant = Moments(1)
    constant.add(np.full((10, 1), 0.1, np.float32))
    assert constant.standardiser().std.item() == np.float32(MIN_STD)
