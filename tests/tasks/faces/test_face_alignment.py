"""The face_alignment backend: our decoding against the package's, and the real loader with random weights, offline."""

import sys

import numpy as np
import pytest
import torch

from storage.errors import WeightsError
from tasks.faces import face_alignment
from tasks.faces.backend import TrackParams, load_backend
from tasks.faces.track import FaceTracker
from tasks.geometry import face_box, hog_box, iou


def test_s3fd_decoding_is_the_packages():
    from face_alignment.detection.sfd.bbox import nms
    from face_alignment.detection.sfd.detect import get_predictions

    generator = torch.Generator().manual_seed(0)
    maps = []
    for size in (20, 10, 5, 3, 2, 1):
        maps += [torch.randn(1, 2, size, size, generator=generator), torch.randn(1, 4, size, size, generator=generator)]
    activated = [m.softmax(dim=1).numpy() if i % 2 == 0 else m.numpy() for i, m in enumerate(maps)]
    theirs = get_predictions(activated, 1)[0]
    ours = face_alignment.decode_s3fd(maps, 0.05)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    # The package counts a pixel more per side in its overlap: boxes are scaled up so that this does not decide.
    large = ours * np.array([100, 100, 100, 100, 1], np.float32)
    np.testing.assert_allclose(face_alignment.suppressed(large), large[nms(large, 0.3)])


def test_heatmap_peaks_are_the_packages():
    from face_alignment.utils import _get_preds_fromhm

    heatmaps = np.random.default_rng(0).random((2, 68, 64, 64), dtype=np.float32)
    best = heatmaps.reshape(2, 68, -1).argmax(axis=-1)
    theirs, _ = _get_preds_fromhm.py_func(heatmaps, best, None, None)
    np.testing.assert_allclose(face_alignment.heatmap_peaks(heatmaps) + 0.5, theirs)


def test_boxes_between_the_two_detectors_fit_a_real_face(grays, backend):
    gray = grays("head_shoulders_450_25fps.mp4", 100)[0]
    landmarks = backend.landmarks(gray, backend.detect(gray, 67)[0].box)
    assert iou(face_alignment.to_hog_box(face_box(landmarks)), hog_box(landmarks)) > 0.85


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Randomly initialised networks, saved under the names of the real files."""
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(s3fd().state_dict(), folder / "s3fd-619a316812.pth")
    torch.save(FAN(4).state_dict(), folder / "2DFAN4-11f355bf06.pth.tar")
    return folder


@pytest.fixture
def random_backend(random_weights, monkeypatch):
    monkeypatch.setenv("TALKSET_WEIGHTS", str(random_weights))
    return face_alignment.FaceAlignmentBackend("cpu")


def test_the_real_loader_offline(random_backend, grays):
    gray = grays("cropped_256_25fps_60s.mp4", 100)[0]
    assert random_backend.identity["name"] == "face_alignment"
    assert len(random_backend.identity["sha256"]) == 64
    boxes = np.array([[60.0, 60, 200, 200], [40, 50, 180, 190]])
    batch = random_backend.landmarks_batch([gray, gray], boxes)
    assert batch.shape == (2, 68, 2)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(random_backend.landmarks(gray, boxes[1]), batch[1], atol=2.0)
    assert isinstance(random_backend.verify(gray, boxes[0]), bool)
    for found in random_backend.detect(gray[:120, :120], 60):
        assert found.box.shape == (4,)
        assert 0.5 < found.score <= 1


def test_the_mirrored_pass_is_averaged_in(random_backend, monkeypatch):
    """With a network that marks one place, landmark k of the mirrored image must be landmark MIRROR_68[k] of ours."""

    def aligner(images):
        heatmaps = torch.zeros(len(images), 68, 64, 64)
        for k in range(68):
            heatmaps[0, k, k % 64, 20] = 2.0
            heatmaps[1, face_alignment.MIRROR_68[k], k % 64, 63 - 20] = 1.0
        return [heatmaps]

    monkeypatch.setattr(random_backend, "_aligner", aligner)
    gray = np.zeros((300, 300), np.uint8)
    landmarks = random_backend.landmarks(gray, np.array([100.0, 100, 200, 200]))
    side = 200 * 2.45 * 100 / 195
    assert np.allclose(landmarks[:, 0], 150 + (20.5 / 64 - 0.5) * side)
    top = 150 + (-0.10 - 0.12 * 1.42) * 100 - side / 2
    assert np.allclose(landmarks[1:63, 1], top + (np.arange(1, 63) + 0.5) / 64 * side, atol=0.01)


def test_the_tracker_survives_untrained_networks(random_backend, grays):
    frames = [gray[::4, ::4] for gray in grays("cropped_256_25fps_60s.mp4", 100)[:2]]
    result = FaceTracker(random_backend, TrackParams(min_face_px=40)).push(frames)
    assert all(np.isfinite(track.landmarks).any() for track in result.tracks)


def test_it_computes_where_it_is_told_to(random_weights, monkeypatch):
    monkeypatch.setenv("TALKSET_WEIGHTS", str(random_weights))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backend = load_backend("face_alignment", "cpu")
    assert backend.landmarks(np.zeros((64, 64), np.uint8), np.array([10.0, 10, 50, 50])).shape == (68, 2)


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TALKSET_ALLOW_DOWNLOAD", raising=False)
    with pytest.raises(WeightsError, match=r"s3fd-619a316812\.pth"):
        face_alignment.load()


class _Payload:
    """What a hostile checkpoint does when unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("content", ["other shapes", "garbage", "hostile"])
def test_wrong_files_are_refused(random_weights, tmp_path, monkeypatch, content):
    path, marker = tmp_path / "s3fd-619a316812.pth", tmp_path / "marker"
    if content == "garbage":
        path.write_bytes(b"\x00garbage" * 50)
    else:
        torch.save({"a": torch.zeros(1)} if content == "other shapes" else _Payload(marker), path)
    (tmp_path / "2DFAN4-11f355bf06.pth.tar").symlink_to(random_weights / "2DFAN4-11f355bf06.pth.tar")
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="not the weights 's3fd'"):
        face_alignment.load()
    assert not marker.exists()


def test_importing_the_module_loads_no_network():
    assert "torch" in sys.modules  # this test file imports it
    assert not any(name in vars(face_alignment) for name in ("torch", "FAN", "s3fd"))
