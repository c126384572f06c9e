"""The index tables are permutations and groups of 68."""

import numpy as np

from tasks.faces import landmark_maps as maps
from tasks.faces.predictor68 import Predictor68


def test_groups_cover_all_points_once():
    groups = (maps.JAW, maps.BROW_LEFT, maps.BROW_RIGHT, maps.NOSE, maps.EYE_LEFT, maps.EYE_RIGHT, maps.MOUTH)
    assert sorted(i for group in groups for i in group) == list(range(68))
    assert maps.LIPS_OUTER + maps.LIPS_INNER == maps.MOUTH


def test_mirror_is_its_own_inverse_and_mirrors_the_mean_face():
    mirror = np.array(maps.MIRROR_68)
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))
    mean = np.array(Predictor68().tables.initial, np.float64)
    mirrored = mean[mirror] * (-1, 1) + (2 * mean[:, 0].mean(), 0)
    assert np.abs(mirrored - mean).max() < 0.06  # of the box side


def test_mediapipe_map_takes_68_different_points():
    assert len(set(maps.MEDIAPIPE_68)) == 68
    points = np.arange(478 * 3).reshape(1, 478, 3)
    np.testing.assert_array_equal(maps.from_mediapipe(points)[0, :, 0], 3 * np.array(maps.MEDIAPIPE_68))
