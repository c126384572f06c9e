"""The default backend on real frames."""

import numpy as np
import pytest

from storage.errors import ConfigError
from tasks.faces import backend as backends
from tasks.geometry import hog_box, iou
from tests.tasks.faces.conftest import FACE_CLIPS


@pytest.mark.parametrize("name", FACE_CLIPS)
def test_one_face_is_found_where_its_landmarks_are(grays, backend, name):
    gray = grays(name, 100)[-1]
    found = backend.detect(gray, round(0.15 * min(gray.shape)))
    assert len(found) == 1
    landmarks = backend.landmarks(gray, found[0].box)
    assert iou(hog_box(landmarks), found[0].box) > 0.6
    assert backend.verify(gray, hog_box(landmarks))


def test_strided_frames_are_searched_as_they_look(grays, backend):
    gray = grays("head_shoulders_450_25fps.mp4", 100)[0]
    strided = np.repeat(gray, 3, axis=1)[:, ::3]
    assert not strided.flags.c_contiguous
    plain, other = backend.detect(gray, 67), backend.detect(strided, 67)
    np.testing.assert_array_equal(plain[0].box, other[0].box)
    assert backend.verify(strided, plain[0].box)


def test_where_there_is_no_face_none_is_found(grays, backend):
    for gray in grays("noface_256_10fps.mp4", 100)[::10]:
        assert backend.detect(gray, 56) == []
    gray = grays("portrait_1080x1920_30fps_hevc.mp4", 100)[0]
    face = backend.detect(gray, 162)[0].box
    aside = face + np.array([500, 700, 500, 700], np.float32)
    assert not backend.verify(gray, aside)
    assert not backend.verify(gray, np.array([-900, -900, -700, -700], np.float32))


def test_faces_below_the_wanted_size_are_passed_over(grays, backend):
    gray = grays("portrait_1080x1920_30fps_hevc.mp4", 100)[0]
    assert backend.detect(gray, 600) == []


def test_a_face_half_out_of_the_frame_is_verified(grays, backend):
    gray = grays("head_shoulders_450_25fps.mp4", 100)[0]
    box = backend.detect(gray, 67)[0].box
    cut_off = gray[:, int(box[0] + 0.12 * (box[2] - box[0])) :]
    shift = gray.shape[1] - cut_off.shape[1]
    assert backend.verify(cut_off, box - np.array([shift, 0, shift, 0], np.float32))


def test_identity_names_what_determines_the_output(backend):
    assert backend.identity["name"] == "dlib"
    assert len(backend.identity["sha256"]) == 64
    assert "20" in backend.identity["version"]


@pytest.mark.parametrize("name", ["no_such", "track", "landmark_maps", "../dlib", ""])
def test_unknown_backends_are_a_config_error(name):
    with pytest.raises(ConfigError, match="use dlib, face_alignment or mediapipe"):
        backends.load_backend(name)


def test_backends_are_found_by_file_name():
    assert backends.load_backend("dlib").name == "dlib"
