"""Boxes and crops against closed forms, and the framing on a real clip."""

import av
import numpy as np
import pytest

from storage.catalog import CropRule
from tasks import geometry
from tasks.faces import dlib
from tasks.faces.track import FaceTracker

RNG = np.random.default_rng(0)


def _face(scale=1.0, dx=0.0, dy=0.0):
    """A made-up frontal face with the template's figures: eyes y 113, chin (128, 224), 133 wide from x 61."""
    points = np.full((68, 2), (128.0, 150.0))
    points[0], points[16], points[8] = (61, 120), (194, 120), (128, 224)
    points[17:27, 1] = 95
    points[36:48, 1] = 113
    points[48:68, 1] = 180
    return points * scale + (dx, dy)


def test_face_box_closed_form():
    left, top, right, bottom = geometry.face_box(_face())
    assert (left, right) == pytest.approx((61 - 0.03 * 133, 194 + 0.03 * 133))
    assert (top, bottom) == pytest.approx((113 - 0.75 * 111, 224))


def test_face_box_contains_the_landmarks_and_moves_and_scales_with_them():
    faces = RNG.normal(size=(20, 68, 2)) * 30 + 100
    boxes = geometry.face_box(faces)
    assert boxes.dtype == np.float32
    assert (boxes[:, None, :2] <= faces.astype(np.float32) + 1e-4).all()
    assert (boxes[:, None, 2:] >= faces.astype(np.float32) - 1e-4).all()
    moved = geometry.face_box(faces * 2.5 + (7, -3))
    np.testing.assert_allclose(moved, boxes * 2.5 + np.array([7, -3, 7, -3]), rtol=1e-5)


def test_hog_box_closed_form():
    angle = np.arange(68) * 2 * np.pi / 68
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 10 + (50, 60)
    assert geometry.rms_radius(circle) == pytest.approx(10)
    np.testing.assert_allclose(geometry.hog_box(circle), [50.05 - 13.28, 58.39 - 13.28, 50.05 + 13.28, 58.39 + 13.28])


def test_missing_landmarks_give_missing_boxes():
    faces = np.stack([_face(), np.full((68, 2), np.nan)])
    assert np.isnan(geometry.face_box(faces)).all(axis=1).tolist() == [False, True]
    assert np.isnan(geometry.hog_box(faces)).all(axis=1).tolist() == [False, True]


def test_iou():
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 5], [np.nan] * 4])
    np.testing.assert_allclose(geometry.iou(box, others), [1, 1 / 3, 0, 0, np.nan])
    np.testing.assert_allclose(geometry.iou(others, box), geometry.iou(box, others))


def test_union_passes_over_missing_rows():
    boxes = np.array([[1, 2, 3, 4], [np.nan] * 4, [0, 3, 2, 9]], np.float32)
    np.testing.assert_array_equal(geometry.union(boxes), [0, 2, 3, 9])
    assert np.isnan(geometry.union(boxes[1:2])).all()
    assert np.isnan(geometry.union(boxes[:0])).all()


def test_crop_square_is_square_centred_and_holds_the_margin():
    for _ in range(200):
        corner, size = RNG.uniform(-50, 800, 2), RNG.uniform(20, 400, 2)
        box = np.concatenate([corner, corner + size])[None]
        margin = RNG.uniform(0, 0.5)
        x0, y0, side = geometry.crop_square(box, CropRule(margin=margin))
        assert all(isinstance(v, int) for v in (x0, y0, side))
        assert 0 <= side - max(size) * (1 + 2 * margin) < 1
        centre = np.array([x0 + (side - 1) / 2, y0 + (side - 1) / 2])
        assert np.abs(centre - (corner + size / 2)).max() <= 0.5 + 1e-9


def test_crop_square_is_never_moved_into_the_frame():
    x0, y0, side = geometry.crop_square(np.array([[-30.0, -20, 70, 80]]), CropRule())
    assert (x0, y0, side) == (-39, -29, 120)


def test_crop_square_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no face box"):
        geometry.crop_square(np.full((3, 4), np.nan), CropRule())


def test_transforms():
    matrix = np.array([[2.0, 0, 5], [0, 3, -1], [0, 0, 1]])
    np.testing.assert_allclose(geometry.transform_points(np.array([[1.0, 1], [0, 0]]), matrix), [[7, 2], [5, -1]])
    np.testing.assert_allclose(geometry.transform_boxes(np.array([[0.0, 0, 1, 1]]), matrix), [[5, -1, 7, 2]])
    perspective = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]])
    np.testing.assert_allclose(geometry.transform_points(np.array([[4.0, 1.0]]), perspective), [[2, 0.5]])
    points = RNG.normal(size=(3, 68, 2))
    points[1, 5] = np.nan
    back = geometry.transform_points(geometry.transform_points(points, matrix), np.linalg.inv(matrix))
    np.testing.assert_allclose(back, points, atol=1e-6)


def _in_crop(landmarks, size=256):
    """Landmarks of a clip, in the crop that the defaults give."""
    x0, y0, side = geometry.crop_square(geometry.face_box(landmarks), CropRule())
    return (landmarks - (x0, y0) + 0.5) * size / side - 0.5


def test_a_still_template_face_is_centred():
    """Without motion the union is one box: the face is 1.1 times as large as in the template, and centred like it."""
    eyes, chin = (_in_crop(_face()[None])[0, i, 1] for i in (40, 8))
    assert (eyes + chin) / 2 == pytest.approx(128 + (113 + 224 - 256) / 2 * 1.1, abs=2)


# Template: eyes (135.9, 113.3), mouth y 180.4, chin y 224, jaw 133 wide. Tolerance 10 px of 256, jaw 16 (faces differ).
@pytest.mark.parametrize("window", range(4))
def test_a_real_speaker_lands_on_the_template(media, window):
    tracker, rows = FaceTracker(dlib.load()), []
    with av.open(str(media / "head_shoulders_450_25fps.mp4")) as container:
        frames = [f.to_ndarray(format="gray") for i, f in enumerate(container.decode(video=0)) if i // 125 == window]
    for start in range(0, 125, 25):
        rows.append(tracker.push(frames[start : start + 25]).tracks[0].landmarks)
    crop = _in_crop(np.concatenate(rows)).mean(axis=0)
    eyes, mouth = crop[36:48].mean(axis=0), crop[48:68].mean(axis=0)
    assert eyes[0] == pytest.approx(128, abs=10)
    assert eyes[1] == pytest.approx(113.3, abs=10)
    assert mouth[1] == pytest.approx(180.4, abs=10)
    assert crop[8, 1] == pytest.approx(224, abs=10)
    assert crop[16, 0] - crop[0, 0] == pytest.approx(133, abs=16)
