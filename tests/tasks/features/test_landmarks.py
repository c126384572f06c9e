"""landmarks: the track passed through, or a backend asked anew for every frame."""

from pathlib import Path

import numpy as np
import pytest

from storage.errors import WeightsError
from tasks.faces.backend import Detection
from tasks.features import landmarks
from tests.fake_clips import fake_clip, neutral_face


def test_track_is_passed_through_and_masked() -> None:
    clip = fake_clip(10, missing=[3, 4])
    rows = landmarks.extract(clip, landmarks.Params())
    np.testing.assert_array_equal(rows["landmarks"], clip.landmarks)
    assert rows["landmarks"] is not clip.landmarks
    assert np.flatnonzero(~rows["landmarks_valid"]).tolist() == [3, 4]


def test_half_known_frames_are_missing() -> None:
    points = np.repeat(neutral_face()[None], 5, axis=0)
    points[2, 30, 0] = np.nan
    rows = landmarks.extract(fake_clip(5, landmarks=points), landmarks.Params())
    assert np.isnan(rows["landmarks"][2]).all()
    assert rows["landmarks_valid"].tolist() == [True, True, False, True, True]


class FakeBackend:
    """Sees nothing on every third look; otherwise two faces, of which the second is where the track is."""

    name = "dlib"
    identity: dict[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.looks = -1

    def detect(self, gray: np.ndarray, min_face_px: int) -> list[Detection]:
        assert gray.shape == (256, 256)
        self.looks += 1
        boxes = [[0, 0, 60, 60], [50, 40, 205, 225]]
        return [] if self.looks % 3 == 2 else [Detection(np.array(box, np.float32), 1.0) for box in boxes]

    def verify(self, gray: np.ndarray, box: np.ndarray) -> bool:
        return True

    def landmarks(self, gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        return np.full((68, 2), box[0], np.float32)


def test_another_backend_finds_the_tracked_face(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    monkeypatch.setattr(landmarks, "_backend", lambda name: backend)
    rows = landmarks.extract(fake_clip(6), landmarks.Params(backend="dlib"))
    assert rows["landmarks_valid"].tolist() == [True, True, False] * 2
    assert (rows["landmarks"][[0, 1, 3, 4]] == 50).all()
    assert np.isnan(rows["landmarks"][[2, 5]]).all()


def test_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise WeightsError(f"{name}: put the model there")

    monkeypatch.setattr(landmarks, "_backend", absent)
    assert landmarks.missing(landmarks.Params()) is None
    assert "put the model there" in str(landmarks.missing(landmarks.Params(backend="mediapipe")))


def test_dlib_finds_a_real_face_again(media: Path) -> None:
    import cv2

    image = cv2.imread(str(media / "portrait_photo_cropped.jpg"))
    jpeg = cv2.imencode(".jpg", cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA))[1].tobytes()
    clip = fake_clip(2, landmarks=np.full((2, 68, 2), np.nan), read_jpeg=lambda index: jpeg)
    rows = landmarks.extract(clip, landmarks.Params(backend="dlib"))
    assert rows["landmarks_valid"].all()
    assert np.ptp(rows["landmarks"][0], axis=0).min() > 60
    np.testing.assert_array_equal(rows["landmarks"][0], rows["landmarks"][1])
