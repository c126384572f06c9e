"""The tracker: on drawn scenes with a scripted backend (every frame's truth is known), and on real clips."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from tasks.faces.backend import Detection, TrackParams
from tasks.faces.predictor68 import Predictor68
from tasks.faces.track import FaceTracker
from tasks.geometry import hog_box, iou
from tests.tasks.faces.conftest import FACE_CLIPS

HEIGHT, WIDTH = 240, 320
ANNA, BERT = 200, 240  # gray values of the two persons' faces
SHAPE = np.array(Predictor68().tables.initial, np.float64)


def _shape_in(box: NDArray, person: int) -> NDArray[np.float32]:
    """A person's landmarks such that their box is `box`; Bert's face is much wider below the eyes."""
    shape = SHAPE.copy()
    if person == BERT:
        shape[:17, 0] = 0.5 + 1.9 * (shape[:17, 0] - 0.5)
    own = hog_box(shape)
    scale = (box[2] - box[0]) / (own[2] - own[0])
    centre = (box[:2] + box[2:]) / 2
    return ((shape - (own[:2] + own[2:]) / 2) * scale + centre).astype(np.float32)


class DrawnFaces:
    """Backend for drawn scenes: a face is a square of gray value ANNA or BERT; counts its calls."""

    name = "drawn"

    def __init__(self) -> None:
        self.identity = {"name": self.name, "version": "1", "sha256": ""}
        self.calls = {"detect": 0, "verify": 0, "landmarks": 0}

    def _faces(self, gray):
        found = []
        for person in (ANNA, BERT):
            _, _, stats, _ = cv2.connectedComponentsWithStats((gray == person).astype(np.uint8))
            found += [(np.array([x, y, x + w, y + h], np.float64), person) for x, y, w, h, _ in stats[1:]]
        return found

    def _face_at(self, gray, box):
        near = [(float(iou(found, box)), i) for i, (found, _) in enumerate(self._faces(gray))]
        best = max(near, default=(0.0, 0))
        return self._faces(gray)[best[1]] if best[0] > 0.2 else None

    def detect(self, gray, min_face_px):
        self.calls["detect"] += 1
        return [Detection(b.astype(np.float32), 1.0) for b, _ in self._faces(gray) if b[3] - b[1] >= min_face_px]

    def verify(self, gray, box):
        self.calls["verify"] += 1
        face = self._face_at(gray, box)
        return face is not None and float(iou(face[0], box)) > 0.35

    def landmarks(self, gray, box):
        self.calls["landmarks"] += 1
        face = self._face_at(gray, box)
        return _shape_in(*face) if face else _shape_in(np.asarray(box, np.float64), ANNA)


def _scene(*faces: tuple[float, float, int, int], background: int = 90) -> NDArray[np.uint8]:
    """A frame with faces given as (x, y of the centre, side, person)."""
    gray = np.full((HEIGHT, WIDTH), background, np.uint8)
    gray[::7] = background // 2
    for x, y, side, person in faces:
        left, top = round(x - side / 2), round(y - side / 2)
        gray[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = person
    return gray


def _track(frames, backend=None, block=25, **params):
    """Track id -> landmarks [N, 68, 2], is_cut [N], num_faces [N]."""
    tracker = FaceTracker(backend or DrawnFaces(), TrackParams(**params))
    tracks, cuts, counts = {}, [], []
    for start in range(0, len(frames), block):
        result = tracker.push(frames[start : start + block])
        cuts.append(result.is_cut)
        counts.append(result.num_faces)
        for track in result.tracks:
            rows = tracks.setdefault(track.track_id, np.full((len(frames), 68, 2), np.nan, np.float32))
            rows[start : start + len(track.landmarks)] = track.landmarks
    return tracks, np.concatenate(cuts), np.concatenate(counts)


def _seen(rows) -> list[int]:
    """Frames with landmarks; a row is whole or absent."""
    is_nan = np.isnan(rows).reshape(len(rows), -1)
    assert (is_nan.all(axis=1) | ~is_nan.any(axis=1)).all()
    return np.flatnonzero(~is_nan.all(axis=1)).tolist()


FACE = (150, 120, 80, ANNA)


# ---------------------------------------------------------------- P-01: what a scene can show


def test_no_face_gives_no_track():
    tracks, is_cut, num_faces = _track([_scene()] * 60)
    assert tracks == {}
    assert not is_cut.any()
    assert not num_faces.any()


def test_one_moving_face_is_followed_exactly():
    frames = [_scene((80 + 2 * i, 100 + i, 70, ANNA)) for i in range(60)]
    tracks, _, num_faces = _track(frames)
    assert list(tracks) == [0]
    assert (num_faces == 1).all()
    truth = np.stack([_shape_in(np.array([45 + 2 * i, 65 + i, 115 + 2 * i, 135 + i], float), ANNA) for i in range(60)])
    np.testing.assert_allclose(tracks[0], truth, atol=0.01)


def test_two_faces_are_two_tracks():
    frames = [_scene((80, 120, 70, ANNA), (240 - i % 3, 120, 80, BERT)) for i in range(50)]
    tracks, _, num_faces = _track(frames)
    assert [_seen(rows) for rows in tracks.values()] == [list(range(50))] * 2
    assert (num_faces == 2).all()
    assert abs(tracks[0].mean() - tracks[1].mean()) > 10


@pytest.mark.parametrize("last", [0, 3, 24, 25, 30, 48])
def test_a_face_that_leaves_is_missing_from_then_on(last):
    frames = [_scene(FACE)] * (last + 1) + [_scene()] * (60 - last)
    tracks, is_cut, num_faces = _track(frames)
    assert _seen(tracks[0]) == list(range(last + 1))
    assert num_faces.tolist() == [1] * (last + 1) + [0] * (60 - last)
    assert not is_cut.any()


@pytest.mark.parametrize("first", [1, 12, 24, 25, 40])
def test_a_face_that_enters_is_there_from_its_first_frame(first):
    tracks, _, _ = _track([_scene()] * first + [_scene(FACE)] * (75 - first))
    assert [_seen(rows) for rows in tracks.values()] == [list(range(first, 75))]


def test_a_second_face_is_discovered_and_traced_back():
    two = _scene(FACE, (270, 80, 60, BERT))
    tracks, _, num_faces = _track([_scene(FACE)] * 60 + [two] * 40, discover_every=50)
    assert _seen(tracks[0]) == list(range(100))
    assert _seen(tracks[1])[-1] == 99
    assert num_faces[-1] == 2


def test_a_short_absence_keeps_the_track_a_long_one_does_not():
    short, _, _ = _track([_scene(FACE)] * 30 + [_scene()] * 20 + [_scene(FACE)] * 30)
    assert list(short) == [0]
    assert _seen(short[0]) == [*range(30), *range(50, 80)]
    long, _, _ = _track([_scene(FACE)] * 30 + [_scene()] * 26 + [_scene(FACE)] * 30)
    assert [_seen(rows) for rows in long.values()] == [list(range(30)), list(range(56, 86))]


def test_a_face_that_comes_back_elsewhere_is_another_track():
    tracks, _, _ = _track([_scene(FACE)] * 30 + [_scene()] * 5 + [_scene((280, 40, 60, ANNA))] * 20)
    assert [_seen(rows) for rows in tracks.values()] == [list(range(30)), list(range(35, 55))]


def test_an_absence_between_two_checks_is_found_when_it_ends_a_block():
    frames = [_scene(FACE)] * 10 + [_scene()] * 15 + [_scene(FACE)] * 25
    tracks, _, _ = _track(frames)
    assert [_seen(rows) for rows in tracks.values()] == [[*range(10), *range(25, 50)]]


def test_tiny_faces_are_not_followed():
    assert _track([_scene((150, 120, 20, ANNA))] * 30)[0] == {}
    assert len(_track([_scene((150, 120, 20, ANNA))] * 30, min_face_px=16)[0]) == 1


def test_a_face_at_the_border_keeps_landmarks_outside_the_frame():
    tracks, _, _ = _track([_scene((WIDTH - 10, 120, 80, ANNA))] * 30)
    assert _seen(tracks[0]) == list(range(30))
    bert, _, _ = _track([_scene((16, 120, 80, BERT))] * 30)
    assert bert[0][..., 0].min() < 0


def test_a_cut_to_another_person_splits_at_the_cut():
    frames = [_scene(FACE)] * 33 + [_scene((160, 120, 80, BERT), background=180)] * 30
    tracks, is_cut, _ = _track(frames)
    assert np.flatnonzero(is_cut).tolist() == [33]
    assert [_seen(rows) for rows in tracks.values()] == [list(range(33)), list(range(33, 63))]


@pytest.mark.parametrize("at", [20, 22, 23, 24, 25, 47])
def test_no_track_holds_two_people_even_when_the_cut_is_at_a_block_edge(at):
    frames = [_scene(FACE)] * at + [_scene((150, 120, 80, BERT), background=180)] * (80 - at)
    tracks, is_cut, _ = _track(frames)
    assert is_cut.sum() == 1
    first, second = (_seen(rows) for rows in tracks.values())
    assert first == list(range(at))
    assert at <= second[0] <= at + 3
    assert second == list(range(second[0], 80))


@pytest.mark.parametrize("at", [10, 25, 40])
def test_another_person_in_the_same_place_splits_the_track_without_a_cut(at):
    frames = [_scene(FACE)] * at + [_scene((150, 120, 80, BERT))] * (60 - at)
    tracks, is_cut, _ = _track(frames)
    assert not is_cut.any()
    assert [_seen(rows) for rows in tracks.values()] == [list(range(at)), list(range(at, 60))]


def test_a_jump_across_the_frame_splits_the_track():
    frames = [_scene((80, 120, 70, ANNA))] * 35 + [_scene((250, 110, 70, ANNA))] * 25
    tracks, _, _ = _track(frames)
    assert [_seen(rows) for rows in tracks.values()] == [list(range(35)), list(range(35, 60))]


@pytest.mark.parametrize("at", [10, 22, 23, 24, 30])
@pytest.mark.parametrize("length", [1, 3])
def test_a_white_flash_neither_cuts_nor_splits(at, length):
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    frames = [_scene(FACE)] * at + [white] * length + [_scene(FACE)] * 40
    tracks, is_cut, _ = _track(frames)
    assert not is_cut.any()
    assert [_seen(rows) for rows in tracks.values()] == [[*range(at), *range(at + length, len(frames))]]


class Drifting(DrawnFaces):
    """A predictor that moves towards the nearest face by at most 8 px a frame, wherever it starts."""

    def landmarks(self, gray, box):
        box = np.asarray(box, np.float64)
        near = min((found for found, _ in self._faces(gray)), key=lambda f: np.abs(f - box).max(), default=box)
        return _shape_in(box + np.clip(near - box, -8, 8), ANNA)


def test_two_tracks_never_follow_the_same_face():
    """The second face vanishes at frame 30; its track strays to the first, which must not pass for its own."""
    both, one = _scene(FACE, (250, 120, 80, ANNA)), _scene(FACE)
    tracks, is_cut, _ = _track([both] * 30 + [one] * 45, Drifting())
    assert not is_cut.any()
    assert [_seen(rows) for rows in tracks.values()] == [list(range(75)), list(range(30))]


def test_a_face_that_grows_at_once_is_split_without_overlap():
    """Forwards this is a jump, backwards a smaller one: no frame may end up in both tracks."""
    frames = [_scene((150, 120, 60, ANNA))] * 35 + [_scene((150, 120, 102, ANNA))] * 25
    tracks, _, num_faces = _track(frames)
    assert (num_faces == 1).all()
    assert [_seen(rows) for rows in tracks.values()] == [list(range(35)), list(range(35, 60))]


def test_two_faces_seen_in_one_frame_are_never_one_track():
    """The second appears beside the first shortly before that one vanishes: near in place and time, not the same."""
    second = (192, 162, 80, BERT)
    frames = [_scene(FACE)] * 33 + [_scene(FACE, second)] * 3 + [_scene(second)] * 39
    tracks, _, _ = _track(frames)
    assert [_seen(rows) for rows in tracks.values()] == [list(range(36)), list(range(33, 75))]


def test_an_entering_face_is_traced_back_through_a_flash():
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    tracks, _, _ = _track([_scene()] * 5 + [_scene(FACE)] * 5 + [white] * 2 + [_scene(FACE)] * 13)
    assert [_seen(rows) for rows in tracks.values()] == [[*range(5, 10), *range(12, 25)]]


def test_detection_is_rare():
    backend = DrawnFaces()
    _track([_scene(FACE)] * 500, backend)
    assert backend.calls["detect"] <= 3
    assert backend.calls["verify"] <= 23
    assert backend.calls["landmarks"] <= 503


# ---------------------------------------------------------------- P-02: nonsense from a backend


class Broken(DrawnFaces):
    """DrawnFaces whose answers go wrong at chosen times."""

    def __init__(self, boxes=(), bad_landmarks=None, bad_calls=()):
        super().__init__()
        self.boxes, self.bad_landmarks, self.bad_calls = boxes, bad_landmarks, set(bad_calls)

    def detect(self, gray, min_face_px):
        nonsense = [Detection(np.array(box, np.float32), 9.0) for box in self.boxes]
        return nonsense + super().detect(gray, min_face_px)

    def landmarks(self, gray, box):
        good = super().landmarks(gray, box)
        return self.bad_landmarks if self.calls["landmarks"] in self.bad_calls else good

    def verify(self, gray, box):
        assert np.isfinite(box).all()
        return super().verify(gray, box)


NAN = float("nan")
BAD_LANDMARKS = [
    np.full((68, 2), np.nan, np.float32),
    np.full((68, 2), np.inf, np.float32),
    np.full((68, 2), 1e9, np.float32),
    np.zeros((68, 2), np.float32),
    np.zeros((5, 2), np.float32),
    _shape_in(np.array([-500.0, -500, -420, -420]), ANNA),
    np.where(np.arange(136).reshape(68, 2) == 77, np.float32(np.nan), SHAPE.astype(np.float32)),
]


@pytest.mark.parametrize("box", [[NAN] * 4, [0, 0, np.inf, 9], [50, 50, 50, 50], [90, 90, 10, 10], [-1e6, 0, 1e6, 99]])
def test_impossible_boxes_are_passed_over(box):
    tracks, _, num_faces = _track([_scene(FACE)] * 30, Broken(boxes=[box]))
    assert [_seen(rows) for rows in tracks.values()] == [list(range(30))]
    assert (num_faces == 1).all()
    assert _track([_scene()] * 30, Broken(boxes=[box]))[0] == {}


def test_a_detection_without_a_face_is_not_followed():
    assert _track([_scene()] * 30, Broken(boxes=[[200, 100, 280, 180]]))[0] == {}


@pytest.mark.parametrize("bad", BAD_LANDMARKS, ids=range(len(BAD_LANDMARKS)))
def test_impossible_landmarks_are_misses_and_the_face_is_found_again(bad):
    tracks, _, _ = _track([_scene(FACE)] * 75, Broken(bad_landmarks=bad, bad_calls=[11]))
    assert list(tracks) == [0]
    seen = _seen(tracks[0])
    assert set(range(75)) - set(seen) <= {9, 10}  # the call that went wrong
    assert np.abs(tracks[0][seen] - tracks[0][0]).max() < 1


@pytest.mark.parametrize("bad", BAD_LANDMARKS, ids=range(len(BAD_LANDMARKS)))
def test_a_backend_that_only_talks_nonsense_gives_no_track(bad):
    tracks, _, num_faces = _track([_scene(FACE)] * 60, Broken(bad_landmarks=bad, bad_calls=range(10_000)))
    assert tracks == {}
    assert not num_faces.any()


# ---------------------------------------------------------------- laws of the interface


def test_parameters_are_frozen_and_strict():
    with pytest.raises(ValidationError):
        TrackParams(detect_evry=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValidationError):
        TrackParams().detect_every = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_an_empty_block_changes_nothing():
    tracker = FaceTracker(DrawnFaces())
    tracker.push([_scene(FACE)] * 25)
    empty = tracker.push([])
    assert (empty.tracks, empty.is_cut.shape, empty.num_faces.shape) == ([], (0,), (0,))
    assert [t.track_id for t in tracker.push([_scene(FACE)] * 5).tracks] == [0]


@pytest.mark.parametrize("block", [1, 5, 10, 24])
def test_block_length_does_not_change_a_steady_track(block):
    frames = [_scene((80 + i, 120, 70, ANNA)) for i in range(60)]
    np.testing.assert_array_equal(_track(frames, block=block)[0][0], _track(frames)[0][0])


# ---------------------------------------------------------------- real clips


def _reference(backend, frames):
    """Detect and predict in each frame by itself: [N, 68, 2], NaN where HOG finds nothing."""
    rows = np.full((len(frames), 68, 2), np.nan, np.float32)
    for i, gray in enumerate(frames):
        found = backend.detect(gray, round(0.15 * min(gray.shape)))
        if found:
            rows[i] = backend.landmarks(gray, found[0].box)
    return rows


@pytest.mark.parametrize("name", FACE_CLIPS)
def test_tracked_landmarks_are_those_of_per_frame_detection(grays, backend, name):
    frames = grays(name, 100)
    tracks, is_cut, num_faces = _track(frames, backend)
    assert list(tracks) == [0]
    assert not is_cut.any()
    assert (num_faces == 1).all()
    assert np.isfinite(tracks[0]).all()
    reference = _reference(backend, frames)
    error = np.linalg.norm(tracks[0] - reference, axis=2).mean(axis=1)
    iod = np.linalg.norm(reference[:, 45] - reference[:, 36], axis=1)
    assert np.isfinite(error).mean() > 0.95
    assert np.nanmean(error / iod) <= 0.013


def test_a_head_that_turns_to_near_profile_is_not_lost(grays, backend):
    tracks, _, num_faces = _track(grays("cropped_256_30fps_noaudio.mp4", 95, 294), backend)
    assert list(tracks) == [0]
    assert (num_faces == 1).all()


def test_a_clip_without_a_detectable_face_gives_no_track(grays, backend):
    assert _track(grays("noface_256_10fps.mp4", 460), backend)[0] == {}


def test_results_are_the_same_twice_and_for_strided_frames(grays, backend):
    frames = grays("cropped_256_24fps_fastmotion.mov", 100)[:60]
    strided = [np.repeat(gray, 2, axis=1)[:, ::2] for gray in frames]
    first, again, other = (_track(f, backend)[0] for f in (frames, frames, strided))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[0], other[0])


def test_spliced_speakers_are_two_tracks(grays, backend):
    first = grays("cropped_256_25fps_60s.mp4", 100)[:40]
    second = [gray[::2, ::2] for gray in grays("surprise_512_25fps_3s.mp4", 100)[:35]]
    tracks, is_cut, _ = _track(first + second, backend)
    assert np.flatnonzero(is_cut).tolist() == [40]
    assert [_seen(rows) for rows in tracks.values()] == [list(range(40)), list(range(40, 75))]


def test_a_covered_face_is_missing_and_then_the_same(grays, backend):
    frames = [gray.copy() for gray in grays("head_shoulders_450_25fps.mp4", 100)]
    for gray in frames[30:40]:
        gray[60:360, 100:340] = 100
    tracks, is_cut, _ = _track(frames, backend)
    assert not is_cut.any()
    assert list(tracks) == [0]
    assert not set(_seen(tracks[0])) & set(range(31, 40))
    assert set(range(100)) - set(_seen(tracks[0])) <= set(range(28, 51))
