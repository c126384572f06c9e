import dataclasses

import numpy as np
import pytest

from tasks.face3d import camera
from tasks.face3d.gaussian_process import gaussian_process_model
from tasks.features import face3d
from tests.fake_clips import fake_clip
from tests.tasks.face3d.synthetic import make_scene

PARAMS = face3d.Params()


def clip_of(landmarks: np.ndarray, key: str = "c"):
    return dataclasses.replace(fake_clip(len(landmarks), landmarks=landmarks.astype(np.float32)), key=key)


@pytest.fixture(scope="module")
def real(media):
    """[60, 68, 2] landmarks in pixels of real frames, and their width."""
    from tasks.faces.backend import load_backend
    from tasks.faces.track import FaceTracker
    from tasks.media.video import iter_slots

    frames = [
        frame.y.copy() for frame, _ in zip(iter_slots(media / "head_shoulders_450_25fps.mp4"), range(50), strict=False)
    ]
    tracker = FaceTracker(load_backend("dlib"))
    parts = [tracker.push(frames[at : at + 25]).tracks[0].landmarks for at in (0, 25)]
    return np.concatenate(parts) * (256 / 450)


def test_real_landmarks_are_explained(real):
    out = face3d.extract(clip_of(real), PARAMS)
    assert out["face3d_valid"].all()
    # Measured 1.0 px at a 256-px frame whose face spans half of it; landmarks themselves jitter by half a pixel.
    assert np.median(out["reprojection_px"]) < 1.6
    assert out["shape_model"].startswith("gp80x64")


def test_mirrored_images_turn_the_other_way(real):
    from tests.tasks.face3d.test_shape_models import _mirror

    straight = face3d.extract(clip_of(real), PARAMS)
    mirrored = real[:, _mirror()].copy()
    mirrored[..., 0] = 255 - mirrored[..., 0]
    flipped = face3d.extract(clip_of(mirrored), PARAMS)
    yaw, other = straight["euler"][:, 1], flipped["euler"][:, 1]
    assert np.abs(yaw + other).max() < np.radians(2)
    assert np.abs(straight["trans"][:, 0] + flipped["trans"][:, 0]).max() < 0.05


def test_stored_columns_reproject_to_the_landmarks():
    model = gaussian_process_model()
    scene = make_scene(model, seed=5, num_frames=40, noise_px=0.2)
    pixels = camera.to_pixels(scene.observed, 256)
    out = face3d.extract(clip_of(pixels), PARAMS)
    seen = camera.project(out["camera_scale"] * out["lm3d"], out["euler"], out["trans"], 256)
    error = np.sqrt(((seen - pixels) ** 2).sum(2).mean(1))
    assert np.allclose(error, out["reprojection_px"], atol=0.02)
    assert np.median(error) < 1.0


def test_identity_is_shared_by_the_clips_of_a_subject_in_any_order():
    model = gaussian_process_model()
    clips = [
        clip_of(camera.to_pixels(make_scene(model, seed, 30).observed, 256), key) for seed, key in ((1, "a"), (1, "b"))
    ]
    shared = face3d.prepare(clips, PARAMS)
    again = face3d.prepare(clips[::-1], PARAMS)
    assert np.array_equal(shared["id"], again["id"])
    rows = [face3d.extract(clip, PARAMS, shared) for clip in clips]
    assert np.array_equal(rows[0]["id"], rows[1]["id"])


def test_a_missing_shape_model_file_is_named():
    params = face3d.Params(shape_model="/nowhere/BFM_model_front.mat", shape_model_sha256="0" * 64)
    assert "BFM_model_front.mat" in (face3d.missing(params) or "")
    elsewhere = params.model_copy(update={"shape_model": "/elsewhere/BFM_model_front.mat"})
    assert face3d.key_params(params) == face3d.key_params(elsewhere)
    assert face3d.missing(PARAMS) is None
