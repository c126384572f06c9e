import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tasks.face3d import camera

RNG = np.random.default_rng(0)


def test_rotation_is_scipys_extrinsic_xyz():
    euler = RNG.uniform(-1.2, 1.2, (50, 3))
    assert np.allclose(camera.rotation(euler), Rotation.from_euler("xyz", euler).as_matrix(), atol=1e-12)


def test_angles_come_back():
    euler = RNG.uniform(-1.2, 1.2, (50, 3))
    assert np.allclose(camera.euler_angles(camera.rotation(euler)), euler, atol=1e-9)


def test_projection_is_a_pinhole_of_1015_px_at_224():
    point = np.zeros((1, 68, 3))
    point[..., :] = (1.0, 2.0, 0.5)
    pixels = camera.project(point, np.zeros((1, 3)), np.zeros((1, 3)), 224)
    assert np.allclose(pixels, (111.5 + 1015 / 9.5, 111.5 - 2030 / 9.5))


@pytest.mark.parametrize("size", [224, 256, 512])
def test_pixels_and_centred_coordinates_are_inverse_and_scale_with_the_crop(size):
    pixels = RNG.uniform(0, size, (5, 68, 2))
    assert np.allclose(camera.to_pixels(camera.to_centred(pixels, size), size), pixels)
    middle = np.full((1, 1, 2), (size - 1) / 2)
    assert np.allclose(camera.to_centred(middle, size), 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotation_axes_are_the_derivative_of_the_rotation(axis):
    euler, point, step = RNG.uniform(-1, 1, 3), RNG.normal(size=3), 1e-6
    moved = euler.copy()
    moved[axis] += step
    change = (camera.rotation(moved) - camera.rotation(euler)) @ point / step
    expected = np.cross(camera.rotation_axes(euler)[axis], camera.rotation(euler) @ point)
    assert np.allclose(change, expected, atol=1e-5)
