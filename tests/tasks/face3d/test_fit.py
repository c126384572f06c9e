import numpy as np
import pytest

from tasks.face3d.gaussian_process import gaussian_process_model
from tasks.face3d.identity import fit_identity
from tasks.face3d.settings import Settings
from tasks.face3d.track import fit_track
from tests.tasks.face3d.adam import fit_adam
from tests.tasks.face3d.synthetic import make_scene, project, rms, shape_error

MODEL = gaussian_process_model()
SETTINGS = Settings(landmark_sigma_px=0.5)


@pytest.fixture(scope="module", params=[0, 1])
def scene(request):
    return make_scene(MODEL, request.param)


@pytest.fixture(scope="module")
def fitted(scene):
    identity = fit_identity(scene.observed, MODEL, SETTINGS)
    return identity, fit_track(scene.observed, MODEL, identity, SETTINGS)


def reprojection(identity, exp, euler, trans, scene, against):
    return rms(project(MODEL, MODEL.points(identity, exp), euler, trans) - against)


def test_pose_is_recovered(scene, fitted):
    _, track = fitted
    assert track.is_fitted.all()
    error_deg = np.degrees(np.abs(track.euler - scene.euler))
    pitch, yaw, roll = np.median(error_deg, axis=0)
    # Depth and pitch trade against each other in 68 flat points: Adam's medians are 1.96 and 1.36 here.
    assert pitch < 2.3
    assert max(yaw, roll) < 1.1
    assert np.quantile(error_deg, 0.95) < 3.5


def test_shape_is_closer_than_the_mean_face(scene, fitted):
    identity, track = fitted
    found = shape_error(MODEL.points(identity, track.exp), scene.points)
    mean = shape_error(np.broadcast_to(MODEL.mean, scene.points.shape), scene.points)
    # Measured 0.78: what 68 points in the plane tell of depth is limited, for any solver (Adam: 0.73 and 1.14).
    assert found < 0.85 * mean


def test_reprojection_is_no_higher_than_that_of_450_adam_steps(scene, fitted):
    identity, track = fitted
    ours = reprojection(identity, track.exp, track.euler, track.trans, scene, scene.observed)
    theirs = reprojection(*fit_adam(scene.observed, MODEL, SETTINGS), scene, scene.observed)
    assert ours <= 1.005 * theirs


def test_residual_is_what_reprojection_says(scene, fitted):
    identity, track = fitted
    seen = project(MODEL, MODEL.points(identity, track.exp), track.euler, track.trans)
    expected = np.sqrt(((seen - scene.observed) ** 2).sum(2).mean(1))
    assert np.allclose(track.residual_px, expected, rtol=1e-6)


def test_smoothness_lowers_jitter_and_the_error_in_3d(scene, fitted):
    identity, track = fitted
    loose = SETTINGS.model_copy(update={"exp_step": 1e3, "euler_step_rad": 1e3, "trans_step": 1e3})
    free = fit_track(scene.observed, MODEL, identity, loose)

    def jitter(fit):
        return rms(np.diff(fit.exp, 2, axis=0))

    assert jitter(track) < 0.8 * jitter(free)
    ours, theirs = (shape_error(MODEL.points(identity, fit.exp), scene.points) for fit in (track, free))
    assert ours < theirs


def test_missing_frames_stay_missing_and_harm_nobody(scene, fitted):
    identity, whole = fitted
    gaps = np.r_[0, 40:52, 90, 124]
    observed = scene.observed.copy()
    observed[gaps] = np.nan
    track = fit_track(observed, MODEL, identity, SETTINGS)
    assert np.array_equal(np.flatnonzero(~track.is_fitted), gaps)
    for values in (track.exp, track.euler, track.trans, track.residual_px):
        assert np.isnan(values[gaps]).all()
        assert np.isfinite(values[track.is_fitted]).all()
    seen = track.is_fitted
    assert np.degrees(np.abs(track.euler - whole.euler)[seen]).max() < 2.0


def test_bad_frames_are_masked_and_the_others_unaffected(scene, fitted):
    identity, whole = fitted
    rng = np.random.default_rng(3)
    bad = rng.choice(125, 6, replace=False)
    observed = scene.observed.copy()
    observed[bad] = rng.uniform(-90, 90, (6, 68, 2))
    track = fit_track(observed, MODEL, identity, SETTINGS)
    assert not track.is_fitted[bad].any()
    good = np.setdiff1d(np.arange(125), bad)
    assert track.is_fitted[good].all()
    assert np.degrees(np.abs(track.euler - whole.euler)[good]).max() < 1.5


def test_single_wild_points_are_outvoted(scene, fitted):
    identity, whole = fitted
    rng = np.random.default_rng(4)
    observed = scene.observed.copy()
    hit = rng.random(observed.shape[:2]) < 0.05
    observed[hit] += rng.choice([-25.0, 25.0], (int(hit.sum()), 2))
    track = fit_track(observed, MODEL, identity, SETTINGS)
    kept = track.is_fitted
    assert kept.mean() > 0.9
    assert np.degrees(np.median(np.abs(track.euler - whole.euler)[kept])) < 0.7


def test_no_face_gives_no_identity_and_no_frame():
    nothing = np.full((10, 68, 2), np.nan)
    identity = fit_identity(nothing, MODEL, SETTINGS)
    assert np.isnan(identity).all()
    assert not fit_track(nothing, MODEL, identity, SETTINGS).is_fitted.any()
