"""blendshapes: what the landmarker says per frame, NaN where it says nothing; the real model where it is present."""

from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pytest

from storage import weights
from tasks.faces import mediapipe
from tasks.faces.mediapipe import MediapipeFace
from tasks.features import blendshapes
from tests.conftest import REPOSITORY
from tests.fake_clips import encode, fake_clip


class FakeLandmarker:
    """A face in every frame but the third, numbered by the call; notes its timestamps."""

    times: list[int | None]
    is_closed: bool

    def __enter__(self) -> Self:
        FakeLandmarker.times, FakeLandmarker.is_closed = [], False
        return self

    def __exit__(self, *_: object) -> None:
        FakeLandmarker.is_closed = True

    def analyse(self, rgb: np.ndarray, timestamp_ms: int | None) -> MediapipeFace | None:
        assert rgb.shape == (256, 256, 3)
        self.times.append(timestamp_ms)
        value = float(len(self.times))
        if value == 3:
            return None
        parts = [np.full(shape, value, np.float32) for shape in ((478, 3), (52,), (4, 4))]
        return MediapipeFace(*parts)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeLandmarker]:
    monkeypatch.setattr(mediapipe, "MediapipeLandmarker", FakeLandmarker)
    return FakeLandmarker


def test_rows_are_the_frames(fake: type[FakeLandmarker]) -> None:
    rows = blendshapes.extract(fake_clip(5), blendshapes.Params())
    assert rows["blendshapes_valid"].tolist() == [True, True, False, True, True]
    assert rows["landmarks478"].shape == (5, 478, 3)
    assert rows["head_pose"].shape == (5, 4, 4)
    np.testing.assert_array_equal(rows["blendshapes"][:, 0], [1, 2, np.nan, 4, 5])
    np.testing.assert_array_equal(rows["head_pose"][:, 3, 3], [1, 2, np.nan, 4, 5])
    assert fake.times == [None] * 5
    assert fake.is_closed


def test_video_mode_passes_frame_times(fake: type[FakeLandmarker]) -> None:
    blendshapes.extract(fake_clip(4), blendshapes.Params(mode="video"))
    assert fake.times == [0, 40, 80, 120]


def test_missing_names_the_model_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "missing", lambda name: f"{name} is absent")
    reason = blendshapes.missing(blendshapes.Params())
    assert reason is not None
    assert "mediapipe" in reason or "face_landmarker" in reason


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = REPOSITORY.parent / "shared" / "weights"
    if weights.missing("face_landmarker") and folder.is_dir():
        monkeypatch.setenv("TALKSET_WEIGHTS", str(folder))
    if reason := blendshapes.missing(blendshapes.Params()):
        pytest.skip(reason)


@pytest.mark.usefixtures("model")
def test_real_model_on_a_real_face(media: Path) -> None:
    image = cv2.imread(str(media / "portrait_photo_cropped.jpg"))
    assert image is not None
    face = encode(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)[..., ::-1])
    nothing = encode(np.full((256, 256, 3), 90, np.uint8))
    clip = fake_clip(3, read_jpeg=[face, nothing, face].__getitem__)
    rows = blendshapes.extract(clip, blendshapes.Params())
    assert rows["blendshapes_valid"].tolist() == [True, False, True]
    assert ((rows["blendshapes"][0] >= 0) & (rows["blendshapes"][0] <= 1)).all()
    np.testing.assert_allclose(rows["head_pose"][0, :3, :3] @ rows["head_pose"][0, :3, :3].T, np.eye(3), atol=0.1)
    assert np.isnan(rows["landmarks478"][1]).all()
    np.testing.assert_array_equal(rows["landmarks478"][0], rows["landmarks478"][2])
