"""quality: each score against a clip built to have a known value."""

from typing import Any

import cv2
import numpy as np
import pytest

from tasks.features import quality
from tasks.geometry import face_box
from tests.fake_clips import encode, fake_clip, image, neutral_face

STILL = np.repeat(neutral_face()[None], 30, axis=0)
EYES_PX = np.linalg.norm(neutral_face()[36] - neutral_face()[45])


def scores(**changes: Any) -> dict[str, Any]:
    return quality.extract(fake_clip(30, **changes), quality.Params())


def test_face_size_is_in_source_pixels() -> None:
    box = face_box(neutral_face()[None])[0]
    expected = max(box[2] - box[0], box[3] - box[1])
    assert scores(landmarks=STILL, source_px_per_crop_px=2.0)["face_size_px"] == pytest.approx(2 * expected)


def test_blurring_lowers_sharpness_and_nothing_else() -> None:
    sharp = [encode(image(index)) for index in range(30)]
    soft = [encode(cv2.GaussianBlur(image(index), (0, 0), 2)) for index in range(30)]
    first, second = scores(read_jpeg=sharp.__getitem__), scores(read_jpeg=soft.__getitem__)
    assert second["sharpness"] < first["sharpness"] / 3
    assert second["brightness"] == pytest.approx(first["brightness"], abs=1)


def test_sharpness_does_not_depend_on_contrast() -> None:
    texture = cv2.GaussianBlur(np.random.default_rng(0).normal(128, 200, (256, 256)), (0, 0), 2)
    full, half = (np.clip(128 + gain * (texture - 128), 0, 255).astype(np.uint8) for gain in (1, 0.5))
    first, second = scores(read_jpeg=lambda _: encode(full)), scores(read_jpeg=lambda _: encode(half))
    assert second["contrast"] == pytest.approx(first["contrast"] / 2, rel=0.02)
    assert second["sharpness"] == pytest.approx(first["sharpness"], rel=0.15)


def test_brightness_and_contrast_of_the_face_only() -> None:
    x0, y0, x1, y1 = face_box(neutral_face()[None])[0]
    image = np.zeros((256, 256), np.uint8)
    image[int(y0) : int(y1) + 2, int(x0) : int(x1) + 2] = 100
    found = scores(landmarks=STILL, read_jpeg=lambda _: encode(image))
    assert found["brightness"] == pytest.approx(100, abs=1)
    assert found["contrast"] < 3


def test_pixels_are_read_from_every_fifth_known_frame() -> None:
    seen: list[int] = []

    def read(index: int) -> bytes:
        seen.append(index)
        return encode(image(0))

    scores(read_jpeg=read, missing=[0, 1, 2])
    assert seen == [3, 8, 13, 18, 23, 28]


def test_motion_is_the_speed_in_percent_of_the_eyes() -> None:
    steps = np.arange(30)[:, None, None] * np.array([1.5, 2.0])
    found = scores(landmarks=STILL + steps)
    assert found["motion"] == pytest.approx(100 * 2.5 / EYES_PX, rel=1e-4)
    assert found["jitter"] == pytest.approx(0, abs=1e-3)
    assert np.isnan(found["speed"][0])
    np.testing.assert_allclose(found["speed"][1:], 100 * 2.5 / EYES_PX, rtol=1e-3)


def test_jitter_is_the_second_difference() -> None:
    shake = np.where(np.arange(30) % 2, 0.5, -0.5)[:, None, None] * np.array([1.0, 0.0])
    assert scores(landmarks=STILL + shake)["jitter"] == pytest.approx(100 * 2 / EYES_PX, rel=1e-4)


def test_angles_are_summarised() -> None:
    angle = np.radians(np.linspace(-10, 20, 30))
    turned = np.array([(neutral_face() - 128) @ [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]] + 128 for a in angle])
    found = scores(landmarks=turned)
    assert found["roll_deg"] == pytest.approx(5, abs=0.5)
    assert found["max_abs_roll_deg"] == pytest.approx(20, abs=0.5)
    np.testing.assert_allclose(found["head_angles_deg"][:, 2], np.degrees(angle), atol=0.5)
    assert abs(found["yaw_deg"]) < 0.5


def test_shares_counts_and_gaps() -> None:
    faces = np.ones(30)
    faces[[2, 3, 4]] = [2, 3, 2]
    corrupt = np.zeros(30)
    corrupt[[0, 9, 10]] = 1
    found = scores(missing=[0, 5, 6, 7, 8, 20, 21], num_faces=faces, is_corrupt=corrupt)
    assert found["num_faces_max"] == 3
    assert found["multi_face_share"] == pytest.approx(0.1)
    assert found["corrupt_share"] == pytest.approx(0.1)
    assert found["valid_share"] == pytest.approx(23 / 30)
    assert found["longest_gap_frames"] == 4


@pytest.mark.parametrize(
    ("amplitude", "level_db", "is_silent"), [(0.5, -9.03, False), (5e-4, -69.0, True), (0.0, -120.0, True)]
)
def test_level_and_silence(amplitude: float, level_db: float, is_silent: bool) -> None:
    found = scores(audio=amplitude * np.sin(np.arange(30 * 640) * 0.3))
    assert found["audio_rms_db"] == pytest.approx(level_db, abs=0.05)
    assert found["is_silent"] == is_silent


def test_clipping() -> None:
    assert scores(audio=np.clip(2 * np.sin(np.arange(30 * 640) * 0.3), -1, 1))["clipping_share"] == pytest.approx(
        2 / 3, abs=0.01
    )
    assert scores()["clipping_share"] == 0


def test_a_clip_without_a_face_keeps_its_other_scores() -> None:
    found = scores(missing=range(30))
    for name in ("face_size_px", "sharpness", "brightness", "yaw_deg", "max_abs_yaw_deg", "motion", "jitter"):
        assert np.isnan(found[name]), name
    assert found["valid_share"] == 0
    assert found["longest_gap_frames"] == 30
    assert np.isfinite(found["audio_rms_db"])
