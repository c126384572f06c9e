"""DTW against a plain reference, a known warp, and takes that say the same or not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.realtalk import alignment
from models.realtalk.alignment import align, at_frames
from tests.models.motion_samples import made_mel, smooth_noise


def stretched(mel: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """mel [2 N, 80] at the frames `places` [M]: [2 M, 80]."""
    return np.repeat(at_frames(mel[::2], places), 2, axis=0).astype(np.float32)


def test_the_cheapest_path_is_found() -> None:
    cost = np.random.default_rng(0).random((7, 9))

    def best(i: int, j: int) -> float:
        if i == j == 0:
            return 2 * cost[0, 0]
        steps = [(i - 1, j - 1, 2.0), (i - 1, j, 1.5), (i, j - 1, 1.5)]
        return min(best(a, b) + weight * cost[i, j] for a, b, weight in steps if a >= 0 and b >= 0)

    total, steps = alignment._accumulate(cost)
    assert total == pytest.approx(best(6, 8))
    path = alignment._path(steps)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [6, 8]
    moves = np.diff(path, axis=0)
    assert set(map(tuple, moves)) <= {(1, 1), (1, 0), (0, 1)}
    weights = [2.0, *(2.0 if move.sum() == 2 else 1.5 for move in moves)]
    assert sum(w * cost[i, j] for w, (i, j) in zip(weights, path, strict=True)) == pytest.approx(total)


def test_a_known_warp_is_recovered_whatever_level_and_timbre() -> None:
    rng = np.random.default_rng(1)
    mel = made_mel(rng, 80)
    times = np.linspace(0, 1, 100)
    places = 79 * (times + 0.08 * np.sin(2 * np.pi * times))
    other = stretched(mel, places) + np.linspace(0.5, -0.5, 80, dtype=np.float32) + 1
    found = align(other, mel)
    assert found.likeness < 0.5
    assert np.abs(found.frames - places)[3:-3].max() < 3
    assert (np.diff(found.frames) >= 0).all()
    assert 0 <= found.frames[0] <= found.frames[-1] <= 79


def test_different_sentences_are_not_alike() -> None:
    rng = np.random.default_rng(2)
    takes = [made_mel(rng, num_frames) for num_frames in (60, 75, 90, 70)]
    likenesses = [align(a, b).likeness for a in takes for b in takes if a is not b]
    assert min(likenesses) > 0.8
    assert all(align(take, take).likeness < 1e-6 for take in takes)


def test_silence_and_very_short_takes_are_like_nothing() -> None:
    silence, sound = np.full((120, 80), -6, np.float32), made_mel(np.random.default_rng(3), 60)
    assert align(silence, sound).likeness >= 0.99
    assert align(sound[:70], sound[:70]).likeness == np.inf


def test_values_between_frames_are_linear_and_missing_ones_stay_missing() -> None:
    values = smooth_noise(np.random.default_rng(4), 6, 3)
    values[3] = np.nan
    moved = at_frames(values, np.array([0.0, 0.25, 2.0, 2.5, 4.0, 5.0]))
    np.testing.assert_allclose(moved[1], 0.75 * values[0] + 0.25 * values[1])
    np.testing.assert_array_equal(moved[[0, 2, 4, 5]], values[[0, 2, 4, 5]])
    assert np.isnan(moved[3]).all()
