import hashlib

import numpy as np
import pytest
from scipy.io import savemat

from storage.errors import ConfigError
from tasks.face3d import load_shape_model
from tasks.face3d.gaussian_process import gaussian_process_model
from tasks.faces import landmark_maps


def test_the_embedded_model_has_the_promised_size_and_says_what_it_is():
    model = gaussian_process_model()
    assert (model.mean.shape, model.id_basis.shape, model.exp_basis.shape) == ((68, 3), (68, 3, 80), (68, 3, 64))
    assert "bfm" not in model.name.lower()
    again = gaussian_process_model.__wrapped__() if hasattr(gaussian_process_model, "__wrapped__") else model
    assert np.array_equal(again.id_basis, model.id_basis)


def test_the_mean_is_a_face():
    mean = gaussian_process_model().mean
    eyes, mouth, chin, nose = mean[36:48].mean(0), mean[48:68].mean(0), mean[8], mean[30]
    assert eyes[1] > nose[1] > mouth[1] > chin[1]
    assert nose[2] > eyes[2]
    assert np.linalg.norm(mean[36, :2] - mean[45, :2]) == pytest.approx(1.0, abs=0.05)


def test_identity_modes_are_mirror_symmetric():
    model = gaussian_process_model()
    mirror = np.array(landmark_maps.MIRROR_68) if hasattr(landmark_maps, "MIRROR_68") else _mirror()
    flipped = model.id_basis[mirror] * np.array([-1.0, 1.0, 1.0])[:, None]
    assert np.allclose(flipped, model.id_basis, atol=1e-6)


def _mirror() -> np.ndarray:
    """Left-right partners by position: the mean face is symmetric about x = 0."""
    mean = gaussian_process_model().mean
    distance = np.linalg.norm(mean[:, None] * (-1, 1, 1) - mean[None], axis=2)
    return distance.argmin(axis=1)


@pytest.fixture
def bfm(tmp_path):
    rng = np.random.default_rng(0)
    vertices, points = 200, rng.permutation(200)[:68]
    variables = {
        "meanshape": rng.normal(size=(1, 600)), "idBase": rng.normal(size=(600, 80)),
        "exBase": rng.normal(size=(600, 64)), "keypoints": points[None] + 1,
    }  # fmt: skip
    path = tmp_path / "BFM_model_front.mat"
    savemat(path, variables)
    return path, variables, points, vertices


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_bfm_key_points_are_counted_from_one(bfm):
    path, variables, points, vertices = bfm
    model = load_shape_model(str(path), sha(path))
    mean = variables["meanshape"].reshape(vertices, 3)
    assert np.allclose(model.mean, mean[points] - mean.mean(axis=0))
    assert np.allclose(model.id_basis, variables["idBase"].reshape(vertices, 3, 80)[points])
    assert sha(path) in model.identity


def test_bfm_refuses_what_it_is_not(bfm, tmp_path):
    path, variables, *_ = bfm
    with pytest.raises(ConfigError, match="sha256"):
        load_shape_model(str(path), "0" * 64)
    with pytest.raises(ConfigError, match="shape_model_sha256"):
        load_shape_model(str(path))
    poor = tmp_path / "poor.mat"
    savemat(poor, {key: value for key, value in variables.items() if key != "exBase"})
    with pytest.raises(ConfigError, match="exBase"):
        load_shape_model(str(poor), sha(poor))
    text = tmp_path / "text.mat"
    text.write_text("no")
    with pytest.raises(ConfigError):
        load_shape_model(str(text), sha(text))
    with pytest.raises(ConfigError, match="gp80x64"):
        load_shape_model("flame")
