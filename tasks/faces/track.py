"""FaceTracker: follows every face of a video, frame by frame, and marks where one is missing.

A face found once is followed by its landmarks: the search box of frame t + 1 is computed from the landmarks of
frame t. The detector only verifies, on a small crop every `detect_every` frames; it searches whole frames at the start
of each shot, at the end of a block in which a face was lost or none is known, and rarely besides, to discover new
faces. Missing is NaN, never a guess.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
from numpy.typing import NDArray

from tasks.faces.backend import FaceBackend, TrackParams
from tasks.faces.cuts import CutFinder, Cuts
from tasks.geometry import hog_box, iou

MIN_FACE_SHARE = 0.15  # default for the smallest face: of the frame's shorter side ...
MIN_FACE_FLOOR_PX = 56  # ... but at least this
SAME_FACE_IOU = 0.3  # boxes this close are one face: two heads cannot be, unless one hides the other
NEAR_SIDES = 0.75  # a lost face comes back within this many box sides of where it was last seen ...
NEAR_SCALE = 1.6  # ... and at most this much larger or smaller


@dataclass(frozen=True, slots=True)
class TrackBlock:
    """One face in the n frames of a block.

    Attributes:
        track_id: the same for the same face as long as it is followed; never used again.
        landmarks: float32 [n, 68, 2] px, NaN rows where the face is not seen.
    """

    track_id: int
    landmarks: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlockFaces:
    """The faces in the n frames of a block.

    Attributes:
        is_cut: bool [n], a scene cut lies before this frame; no track crosses it.
        tracks: the faces seen in at least one frame of the block, by rising track_id.
        num_faces: int16 [n], faces seen in each frame.
    """

    is_cut: NDArray[np.bool_]
    tracks: list[TrackBlock]
    num_faces: NDArray[np.int16]

    @classmethod
    def empty(cls, num_frames: int) -> "BlockFaces":
        """A block without faces or cuts."""
        return cls(np.zeros(num_frames, bool), [], np.zeros(num_frames, np.int16))

    def after(self, num_frames: int) -> "BlockFaces":
        """This block with frames without a face put before it; a cut at its beginning moves before them."""
        before = BlockFaces.empty(num_frames)
        before.is_cut[0] = self.is_cut[0]
        missing = np.full((num_frames, 68, 2), np.nan, np.float32)
        tracks = [TrackBlock(track.track_id, np.concatenate([missing, track.landmarks])) for track in self.tracks]
        rest = self.is_cut & (np.arange(len(self.is_cut)) > 0)
        num_faces = np.concatenate([before.num_faces, self.num_faces])
        return BlockFaces(np.concatenate([before.is_cut, rest]), tracks, num_faces)


@dataclass(slots=True)
class _Track:
    """A face being followed: where to look next, and when and how it was last seen (`seen`: absolute frame)."""

    track_id: int
    box: NDArray[np.float64]
    landmarks: NDArray[np.float32] | None
    seen: int
    is_lost: bool = False
    is_over: bool = False

    def move_to(self, landmarks: NDArray[np.float32], seen: int) -> None:
        """The face was last seen with these landmarks, in absolute frame `seen`."""
        self.landmarks, self.box, self.seen = landmarks.copy(), hog_box(landmarks), seen

    def is_near(self, box: NDArray[np.float64]) -> bool:
        """Whether this face may be the face found in `box`."""
        side, new_side = float(self.box[2] - self.box[0]), float(box[2] - box[0])
        distance = float(np.hypot(*((self.box[:2] + self.box[2:]) - (box[:2] + box[2:])) / 2))
        return distance <= NEAR_SIDES * side and max(side, new_side) <= NEAR_SCALE * min(side, new_side)


@dataclass(frozen=True, slots=True)
class _Block:
    """The frames of one push: `first` is the absolute number of the first, `rows` track_id -> landmarks [n, 68, 2]."""

    grays: Sequence[NDArray[np.uint8]]
    first: int
    cuts: Cuts
    rows: dict[int, NDArray[np.float32]]

    def row_of(self, track_id: int) -> NDArray[np.float32]:
        """Landmarks [n, 68, 2] of a track, NaN until they are set."""
        if track_id not in self.rows:
            self.rows[track_id] = np.full((len(self.grays), 68, 2), np.nan, np.float32)
        return self.rows[track_id]

    def faces(self) -> BlockFaces:
        """The tracks that were seen in the block."""
        seen = {track_id: rows for track_id, rows in sorted(self.rows.items()) if not np.isnan(rows[:, 0, 0]).all()}
        counts = sum((~np.isnan(rows[:, 0, 0]) for rows in seen.values()), np.zeros(len(self.grays), np.int16))
        tracks = [TrackBlock(track_id, rows) for track_id, rows in seen.items()]
        return BlockFaces(self.cuts.is_cut, tracks, counts.astype(np.int16))


class _Finder:
    """A backend without implausible results: boxes and landmarks that cannot be a face in the frame are dropped."""

    def __init__(self, backend: FaceBackend, min_face_px: int | None) -> None:
        self._backend, self._min_face_px = backend, min_face_px

    def search(self, gray: NDArray[np.uint8]) -> Iterator[NDArray[np.float64]]:
        """Boxes of the faces in a frame, surest first."""
        min_face_px = self._min_face_px or max(MIN_FACE_FLOOR_PX, round(MIN_FACE_SHARE * min(gray.shape)))
        for detection in self._backend.detect(gray, min_face_px):
            box = np.asarray(detection.box, np.float64)
            if _is_plausible_box(box, gray.shape) and max(box[2:] - box[:2]) >= 0.75 * min_face_px:
                yield box

    def landmarks(self, gray: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float32] | None:
        """The backend's landmarks; None when they are not finite or not a shape that can lie in this frame."""
        landmarks = np.asarray(self._backend.landmarks(gray, box), np.float32)
        if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
            return None
        return landmarks if _is_plausible_box(hog_box(landmarks), gray.shape) else None

    def verify(self, gray: NDArray[np.uint8], landmarks: NDArray[np.float32] | None) -> bool:
        """Whether there are landmarks, and a face where they are."""
        return landmarks is not None and bool(self._backend.verify(gray, hog_box(landmarks)))

    def weed(self, grays: Sequence[NDArray[np.uint8]], rows: NDArray[np.float32], start: int, stop: int) -> None:
        """Verifies each frame from `start` to `stop` - 1 and blanks those of `rows` [n, 68, 2] without the face."""
        for i in range(start, stop):
            if not np.isnan(rows[i, 0, 0]) and not self.verify(grays[i], rows[i]):
                rows[i] = np.nan

    def confirmed(self, gray: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float32] | None:
        """Landmarks of a newly found face, if they are a face themselves."""
        landmarks = self.landmarks(gray, box)
        return landmarks if self.verify(gray, landmarks) else None


class FaceTracker:
    """Follows faces through consecutive frames, pushed in blocks; state carries over.

    Blocks of 25 frames (the last may be shorter) are what the pipeline pushes. Faces are verified on every absolute
    frame that ends a run of `detect_every`, and on the last frame of each block and shot, so other block lengths verify
    more often; the landmarks of frames that have a face come out the same. A cut that falls on the last
    `max_flash_frames` frames of a block is reported on the first frame of the next one, and the frames between have no
    landmarks (see CutFinder).

    Every output is a function of the frames and parameters alone.
    """

    def __init__(self, backend: FaceBackend, params: TrackParams | None = None) -> None:
        self._params = params or TrackParams()
        self._finder = _Finder(backend, self._params.min_face_px)
        self._cuts = CutFinder(self._params.cut_threshold, self._params.max_flash_frames)
        self._tracks: list[_Track] = []
        self._num_frames = 0
        self._num_tracks = 0
        self._next_discovery = 0

    @property
    def num_pending(self) -> int:
        """Last frames of the last block that may follow a cut: if the next block begins with one, it lies before them.

        They have no landmarks either way.
        """
        return self._cuts.num_pending

    def push(self, grays: Sequence[NDArray[np.uint8]]) -> BlockFaces:
        """Follow the faces through the next frames, each uint8 [H, W] with any strides."""
        block = _Block(grays, self._num_frames, self._cuts.push(grays), {})
        edges = sorted({0, *np.flatnonzero(block.cuts.is_cut).tolist(), len(grays)})
        for start, stop in pairwise(edges):
            if block.cuts.is_cut[start]:
                self._tracks = []
            self._follow_shot(block, start, stop)
        self._num_frames += len(grays)
        # Tracks that were lost too long ago cannot be resumed.
        oldest = self._num_frames - 1 - self._params.max_gap_frames
        self._tracks = [track for track in self._tracks if not track.is_lost or track.seen >= oldest]
        return block.faces()

    def _follow_shot(self, block: _Block, start: int, stop: int) -> None:
        """All faces in frames start to stop - 1, which belong to one shot."""
        stop = min(stop, len(block.grays) - int(block.cuts.is_pending.sum()))
        if stop <= start:
            return
        if block.first + start == 0 or block.cuts.is_cut[start]:
            for box in self._search(block, start):
                if self._finder.confirmed(block.grays[start], box) is not None and not self._is_followed(box):
                    self._add_track(box, None, block.first + start - 1)
        for track in self._tracks:
            if not track.is_lost:
                self._follow(track, block, start, stop)
        self._end_doubles(block, start, stop)
        all_held = bool(self._tracks) and not any(track.is_lost or track.is_over for track in self._tracks)
        self._tracks = [track for track in self._tracks if not track.is_over]
        if not all_held or block.first + stop > self._next_discovery:
            self._find_more(block, start, stop)

    def _follow(self, track: _Track, block: _Block, start: int, stop: int) -> None:
        """Follow one face, then verify it at checkpoints and take back what does not hold."""
        end = self._advance(track, block, start, stop)
        rows, every, unsure = block.row_of(track.track_id), self._params.detect_every, start
        for at in range(start, end):
            if at == end - 1 or (block.first + at + 1) % every == 0:
                if not np.isnan(rows[at, 0, 0]) and not self._finder.verify(block.grays[at], rows[at]):
                    rows[at] = np.nan
                    self._finder.weed(block.grays, rows, unsure, at)
                unsure = at + 1
        if end < stop:
            self._finder.weed(block.grays, rows, start, end)  # what does not hold now may have been wrong before
        seen = np.flatnonzero(~np.isnan(rows[start:stop, 0, 0])) + start
        if len(seen):
            track.move_to(rows[seen[-1]], block.first + int(seen[-1]))
        track.is_lost = track.seen != block.first + stop - 1

    def _advance(self, track: _Track, block: _Block, start: int, stop: int) -> int:
        """Predict frame by frame until `stop` or until the landmarks make no sense; returns the first frame without."""
        rows, box, last = block.row_of(track.track_id), track.box, track.landmarks
        for at in range(start, stop):
            gray = block.grays[at]
            landmarks = self._finder.landmarks(gray, box)
            is_same = landmarks is not None and (last is None or not self._is_jump(last, landmarks))
            if block.cuts.is_flash[at] and not (is_same and self._finder.verify(gray, landmarks)):
                continue
            if landmarks is None or not is_same:
                track.is_over = self._finder.verify(gray, landmarks)  # another face took its place
                return at
            rows[at], last, box = landmarks, landmarks, hog_box(landmarks)
        return stop

    def _end_doubles(self, block: _Block, start: int, stop: int) -> None:
        """When two tracks have come to follow the same face, the younger one ends where they met."""
        for i, young in enumerate(self._tracks):
            rows = block.row_of(young.track_id)
            mine = rows[start:stop]
            for old in self._tracks[:i]:
                is_same = iou(hog_box(mine), hog_box(block.row_of(old.track_id)[start:stop])) > SAME_FACE_IOU
                if is_same.any():
                    mine[is_same] = np.nan
                    self._finder.weed(block.grays, rows, start, stop)  # it may have strayed before they met
                    young.is_over = True

    def _find_more(self, block: _Block, start: int, stop: int) -> None:
        """Search the last frame; trace each face without a track back to where it entered, and resume or start one."""
        at = stop - 1
        for box in self._search(block, at):
            landmarks = None if self._is_followed(box) else self._finder.confirmed(block.grays[at], box)
            if landmarks is not None and not self._is_followed(hog_box(landmarks)):
                self._resume(block, self._trace_back(block, landmarks, start, at), at)

    def _resume(self, block: _Block, found: NDArray[np.float32], at: int) -> None:
        """Give the landmarks of a face seen up to frame `at` to the lost track that they continue, or to a new one."""
        entry = int(np.flatnonzero(~np.isnan(found[:, 0, 0]))[0])
        for track in self._tracks:
            num_missing = block.first + entry - track.seen - 1  # negative: two faces, both were seen in one frame
            is_recent = 0 <= num_missing <= self._params.max_gap_frames
            if track.is_lost and is_recent and track.is_near(hog_box(found[entry])):
                break
        else:
            track = self._add_track(hog_box(found[at]), found[at], block.first + at)
        rows = block.row_of(track.track_id)
        rows[~np.isnan(found)] = found[~np.isnan(found)]
        track.move_to(found[at], block.first + at)
        track.is_lost = False

    def _trace_back(self, block: _Block, landmarks: NDArray[np.float32], start: int, at: int) -> NDArray[np.float32]:
        """Follow a face backwards from frame `at`, verifying each frame: float32 [n, 68, 2], NaN where it is not."""
        found = np.full((len(block.grays), 68, 2), np.nan, np.float32)
        found[at] = landmarks
        for i in range(at - 1, start - 1, -1):
            earlier = self._finder.landmarks(block.grays[i], hog_box(landmarks))
            if earlier is None or self._is_jump(landmarks, earlier) or not self._finder.verify(block.grays[i], earlier):
                if block.cuts.is_flash[i]:
                    continue
                break
            box = hog_box(earlier)
            if any(bool(iou(hog_box(rows[i]), box) > SAME_FACE_IOU) for rows in block.rows.values()):
                break  # some track already has this face
            found[i] = landmarks = earlier
        return found

    def _search(self, block: _Block, at: int) -> Iterator[NDArray[np.float64]]:
        """Boxes of the faces in frame `at`, and a note of when to search again."""
        self._next_discovery = block.first + at + self._params.discover_every
        return self._finder.search(block.grays[at])

    def _is_jump(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
        """Whether two consecutive frames cannot show the same face."""
        moved, changed = _movement(before, after)
        return moved > self._params.max_jump or changed > self._params.max_shape_change

    def _is_followed(self, box: NDArray[np.float64]) -> bool:
        return any(not track.is_lost and iou(track.box, box) > SAME_FACE_IOU for track in self._tracks)

    def _add_track(self, box: NDArray[np.float64], landmarks: NDArray[np.float32] | None, seen: int) -> _Track:
        track = _Track(self._num_tracks, box, landmarks, seen)
        self._num_tracks += 1
        self._tracks.append(track)
        return track


def _is_plausible_box(box: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    """Whether a face can fill this box: finite, not empty, no larger than the frame, its centre inside."""
    if box.shape != (4,) or not np.isfinite(box).all():
        return False
    (width, height), (x, y) = box[2:] - box[:2], (box[:2] + box[2:]) / 2
    has_size = min(width, height) > 4 and max(width, height) <= 1.5 * max(shape)
    return bool(has_size and 0 <= x < shape[1] and 0 <= y < shape[0])


@numba.njit(cache=True)
def _movement(before: NDArray[np.float32], after: NDArray[np.float32]) -> tuple[float, float]:
    """RMS movement of the landmarks, and RMS change of their shape (position, size, roll removed), in RMS radii."""
    num = len(before)
    mean_a = mean_b = 0j
    for i in range(num):
        mean_a += complex(before[i, 0], before[i, 1]) / num
        mean_b += complex(after[i, 0], after[i, 1]) / num
    moved = size_a = size_b = 0.0
    cross = 0j
    for i in range(num):
        a, b = complex(before[i, 0], before[i, 1]), complex(after[i, 0], after[i, 1])
        moved += abs(b - a) ** 2
        a, b = a - mean_a, b - mean_b
        size_a += abs(a) ** 2
        size_b += abs(b) ** 2
        cross += a.conjugate() * b
    # |a t / |a| - b / |b||^2 with the best turn t of modulus 1 is 2 - 2 |<a, b>| / (|a| |b|).
    likeness = abs(cross) / np.sqrt(size_a * size_b)
    return np.sqrt(moved / size_a), np.sqrt(max(0.0, 2 - 2 * likeness))
