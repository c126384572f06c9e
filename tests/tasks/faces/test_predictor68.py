"""Our evaluation of the regression trees against dlib's own."""

from pathlib import Path

import dlib
import numpy as np
import pytest

from storage import weights
from storage.errors import WeightsError
from tasks.faces import predictor68
from tests.tasks.faces.conftest import FACE_CLIPS


@pytest.fixture(scope="module")
def predictor() -> predictor68.Predictor68:
    return predictor68.Predictor68()


@pytest.fixture(scope="module")
def dlib_predictor():
    return dlib.shape_predictor(str(weights.resolve("dlib68")))


def _dlib_points(dlib_predictor, gray, box):
    shape = dlib_predictor(np.ascontiguousarray(gray), dlib.rectangle(*(int(v) for v in box)))
    return np.array([(point.x, point.y) for point in shape.parts()])


def test_rounded_output_is_dlibs(grays, backend, predictor, dlib_predictor):
    equal = total = 0
    for name in FACE_CLIPS:
        frames = grays(name, 100)
        first = backend.detect(frames[0], round(0.15 * min(frames[0].shape)))[0].box
        for gray in frames[::3]:
            box = np.round(first)
            ours = np.floor(predictor(gray, box).astype(np.float64) + 0.5)
            equal += int((ours == _dlib_points(dlib_predictor, gray, box)).sum())
            total += 136
    assert total > 20_000
    assert equal / total >= 0.999


def test_boxes_over_the_border_are_dlibs_too(predictor, dlib_predictor):
    gray = np.random.default_rng(1).integers(0, 255, (150, 220), np.uint8)
    for box in ([-40, -30, 90, 100], [120, 60, 280, 220], [-300, -300, -100, -100], [10, 10, 12, 12]):
        ours = np.floor(predictor(gray, np.array(box, np.float64)).astype(np.float64) + 0.5)
        assert (ours == _dlib_points(dlib_predictor, gray, box)).mean() >= 0.99


def test_strides_and_read_only_frames_do_not_matter(grays, predictor):
    gray = grays("head_shoulders_450_25fps.mp4", 100)[0]
    box = np.array([120.0, 100.0, 330.0, 310.0])
    wide = np.zeros((gray.shape[0], 512), np.uint8)
    wide[:, : gray.shape[1]] = gray
    frozen = gray.copy()
    frozen.flags.writeable = False
    strided = np.repeat(np.repeat(gray, 2, axis=0), 2, axis=1)[::2, ::2]
    for variant in (wide[:, : gray.shape[1]], frozen, strided):
        np.testing.assert_array_equal(predictor(variant, box), predictor(gray, box))


def test_output_has_fractions(grays, predictor):
    landmarks = predictor(grays("head_shoulders_450_25fps.mp4", 100)[0], np.array([120.0, 100.0, 330.0, 310.0]))
    assert landmarks.dtype == np.float32
    assert np.abs(landmarks - np.round(landmarks)).mean() > 0.1


def test_tables_are_cached_and_damage_is_repaired(tmp_path, monkeypatch, predictor):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = predictor68.Predictor68().tables
    folder = next((tmp_path / "talkset").glob("predictor68-*"))
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{name}.npy" for name in predictor68.Tables._fields)
    leaves = folder / "leaves.npy"
    leaves.write_bytes(leaves.read_bytes()[:1000])
    second = predictor68.Predictor68().tables
    for ours, theirs, original in zip(first, second, predictor.tables, strict=True):
        np.testing.assert_array_equal(theirs, original)
        assert ours.shape == original.shape
    assert leaves.stat().st_size == 128 + second.leaves.nbytes


def test_unusable_cache_folder_means_memory(tmp_path, monkeypatch, predictor):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    tables = predictor68.Predictor68().tables
    np.testing.assert_array_equal(tables.leaves[3, 7], predictor.tables.leaves[3, 7])


@pytest.mark.parametrize("damage", ["short", "foreign", "empty"])
def test_other_files_are_refused(tmp_path, damage):
    path = tmp_path / "model.dat"
    whole = weights.resolve("dlib68").read_bytes()[:2_000_000]
    path.write_bytes({"short": whole, "foreign": bytes(range(256)) * 100, "empty": b""}[damage])
    with pytest.raises(WeightsError, match=r"model\.dat"):
        predictor68.parse_dat(path)


def test_without_the_package_the_message_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TALKSET_WEIGHTS", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(WeightsError, match="install the Python package face_recognition_models"):
        predictor68.Predictor68()
