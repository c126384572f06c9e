"""Head angles of the generic face turned by known rotations."""

import numpy as np
import pytest

from tasks.faces import head_pose
from tasks.faces.head_pose import RIGID, eye_distance_px, head_angles_deg


def projected(yaw: float, pitch: float, roll: float, distance: float | None = None) -> np.ndarray:
    """[1, 68, 2] px of the generic face: orthographic, or in perspective from `distance` eye distances."""
    a, b, c = np.radians([-pitch, -yaw, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    points = head_pose._GENERIC @ (about_z @ about_y @ about_x).T
    scale = 80.0 if distance is None else 80 * distance / (distance + points[:, 2:])
    landmarks = np.zeros((1, 68, 2))
    landmarks[0, RIGID] = scale * points[:, :2] + 128
    return landmarks


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (25, 0, 0), (-40, 0, 0), (0, 15, 0), (0, -20, 0), (0, 0, 30), (20, -10, -15)]
)
def test_known_rotations_are_recovered(angles: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(head_angles_deg(projected(*angles))[0], angles, atol=1e-6)


@pytest.mark.parametrize("angles", [(20, 0, 0), (0, 10, 5), (-30, -10, 0)])
def test_perspective_costs_little(angles: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(head_angles_deg(projected(*angles, distance=6))[0], angles, atol=3)


def test_signs_are_as_seen_in_the_image() -> None:
    frontal, right, up, clockwise = (
        projected(*angles)[0] for angles in ((0, 0, 0), (20, 0, 0), (0, 20, 0), (0, 0, 20))
    )

    def tip(face: np.ndarray) -> np.ndarray:
        return face[30] - face[[36, 45]].mean(axis=0)

    assert tip(right)[0] > tip(frontal)[0]
    assert tip(up)[1] < tip(frontal)[1]
    assert clockwise[45, 1] > clockwise[36, 1]


def test_missing_rows_stay_missing() -> None:
    faces = np.concatenate([projected(10, 0, 0), np.full((1, 68, 2), np.nan)])
    angles = head_angles_deg(faces)
    assert angles[0, 0] == pytest.approx(10)
    assert np.isnan(angles[1]).all()
    assert np.isnan(head_angles_deg(faces[1:])).all()


def test_eye_distance_is_the_median_over_known_frames() -> None:
    faces = np.zeros((4, 68, 2))
    faces[:, 45] = [[30, 40], [3, 4], [6, 8], [np.nan, np.nan]]
    assert eye_distance_px(faces) == 10
    assert np.isnan(eye_distance_px(faces[3:]))
