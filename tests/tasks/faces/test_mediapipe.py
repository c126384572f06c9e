"""The MediaPipe landmarker, with its real model file when there is one."""

import av
import numpy as np
import pytest

from storage.errors import WeightsError
from tasks.faces import mediapipe
from tasks.faces.landmark_maps import MEDIAPIPE_68
from tasks.geometry import hog_box, iou


@pytest.fixture
def model(weights_folder):
    pytest.importorskip("mediapipe", reason="the optional package mediapipe is not installed")
    if not (weights_folder / "face_landmarker.task").is_file():
        pytest.skip(f"no face_landmarker.task in {weights_folder}")


@pytest.fixture
def rgb(media):
    with av.open(str(media / "head_shoulders_450_25fps.mp4")) as container:
        return [frame.to_ndarray(format="rgb24") for _, frame in zip(range(3), container.decode(video=0), strict=False)]


@pytest.mark.usefixtures("model")
def test_analyse_gives_landmarks_blendshapes_and_pose(rgb, grays, backend):
    with mediapipe.MediapipeLandmarker() as landmarker:
        face = landmarker.analyse(rgb[0])
    assert face is not None
    assert (face.landmarks.shape, face.blendshapes.shape, face.pose.shape) == ((478, 3), (52,), (4, 4))
    assert {face.landmarks.dtype, face.blendshapes.dtype, face.pose.dtype} == {np.dtype(np.float32)}
    assert 0 <= face.blendshapes.min() <= face.blendshapes.max() <= 1
    rotation = face.pose[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=0.02)
    gray = grays("head_shoulders_450_25fps.mp4", 100)[0]
    other = backend.landmarks(gray, backend.detect(gray, 67)[0].box)
    iod = np.linalg.norm(other[45] - other[36])
    assert np.linalg.norm(face.landmarks[list(MEDIAPIPE_68), :2] - other, axis=1).mean() / iod < 0.08


@pytest.mark.usefixtures("model")
def test_video_mode_follows_rising_timestamps_and_strides_do_not_matter(rgb):
    strided = np.repeat(rgb[0], 2, axis=1)[:, ::2]
    with mediapipe.MediapipeLandmarker() as landmarker:
        faces = [landmarker.analyse(frame, 40 * i) for i, frame in enumerate(rgb)]
        assert all(face is not None for face in faces)
        plain, other = landmarker.analyse(rgb[0]), landmarker.analyse(strided)
        assert plain is not None
        assert other is not None
        np.testing.assert_array_equal(plain.landmarks, other.landmarks)
        assert landmarker.analyse(np.zeros((200, 300, 3), np.uint8)) is None


@pytest.mark.usefixtures("model")
def test_backend_finds_verifies_and_marks(grays):
    gray = grays("head_shoulders_450_25fps.mp4", 100)[0]
    backend = mediapipe.MediapipeBackend()
    try:
        (found,) = backend.detect(gray, 67)
        landmarks = backend.landmarks(gray, found.box)
        assert landmarks.shape == (68, 2)
        assert iou(hog_box(landmarks), found.box) > 0.8
        assert backend.verify(gray, found.box)
        aside = np.array([0.0, 0, 90, 90])
        assert not backend.verify(gray, aside)
        assert np.isnan(backend.landmarks(gray[:60, :60], np.array([5.0, 5, 50, 50]))).all()
        assert backend.detect(gray, 400) == []
        assert len(backend.identity["sha256"]) == 64
    finally:
        backend.close()


def test_without_the_package_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(mediapipe, "find_spec", lambda _name: None)
    with pytest.raises(WeightsError, match=r"pip install -e '\.\[mediapipe\]'"):
        mediapipe.load()
    assert ".[mediapipe]" in (mediapipe.missing() or "")


def test_without_the_model_file_the_message_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(mediapipe, "find_spec", lambda _name: object())
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TALKSET_ALLOW_DOWNLOAD", raising=False)
    with pytest.raises(WeightsError, match=r"face_landmarker\.task"):
        mediapipe.load()
    assert "face_landmarker.task" in (mediapipe.missing() or "")
