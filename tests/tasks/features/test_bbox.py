"""bbox: boxes within the crop, NaN where there is no face in it."""

import numpy as np

from tasks.features import bbox
from tasks.geometry import face_box
from tests.fake_clips import fake_clip, moving_face, neutral_face


def test_boxes_are_the_face_boxes() -> None:
    clip = fake_clip(20, missing=[7], num_faces=[2] * 20)
    rows = bbox.extract(clip, bbox.Params())
    known = np.arange(20) != 7
    np.testing.assert_array_equal(rows["bbox"][known], face_box(clip.landmarks[known]))
    assert np.isnan(rows["bbox"][7]).all()
    assert (rows["num_faces"] == 2).all()


def test_a_box_contains_its_landmarks() -> None:
    face = neutral_face()
    box = bbox.extract(fake_clip(3, landmarks=moving_face(3)), bbox.Params())["bbox"][0]
    assert (box[:2] <= face.min(axis=0) + np.array([0, 3])).all()
    assert (box[2:] >= face.max(axis=0)).all()


def test_boxes_are_clipped_to_the_crop() -> None:
    faces = neutral_face() + np.array([[[100, 0]], [[0, 100]], [[-100, -100]]])
    boxes = bbox.extract(fake_clip(3, landmarks=faces), bbox.Params())["bbox"]
    assert boxes[0, 2] == 255
    assert boxes[1, 3] == 255
    assert (boxes[2, :2] == 0).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_face_outside_the_crop_has_no_box() -> None:
    rows = bbox.extract(fake_clip(2, landmarks=moving_face(2) + 500), bbox.Params())
    assert np.isnan(rows["bbox"]).all()
