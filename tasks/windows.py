"""Shots to windows: where clips begin and end, and who speaks in them. Pure: frames are known only by number."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from storage.catalog import ClipRule
from tasks.faces.track import BlockFaces


@dataclass(frozen=True, slots=True)
class Window:
    """One expected clip: consecutive frames of one shot.

    Attributes:
        index: 1-based among the source's windows, kept or not; the k of `name#k`.
        start: number of the first frame within the stretch.
        landmarks: [n, 68, 2] float32 source px of the speaker, NaN where not found.
        num_faces: [n] int16.
        is_corrupt: [n] bool.
        track_id: the speaker's track, -1 when there is no face.
        is_tail: shorter than the shortest clip.
    """

    index: int
    start: int
    landmarks: NDArray[np.float32]
    num_faces: NDArray[np.int16]
    is_corrupt: NDArray[np.bool_]
    track_id: int
    is_tail: bool

    def __len__(self) -> int:
        """Frames in the window."""
        return len(self.num_faces)


@dataclass(slots=True)
class WindowAssembler:
    """Collects tracked frames into windows; a scene cut ends a window, the rest of a shot is a shorter one.

    The speaker of a window is the track with the largest length x area since the shot began, among those seen in the
    window; so a bystander who passes close by for a moment does not take over.

    Args:
        rule: window length and shortest tail.
        region: (left, top, right, bottom) px that holds the speaker's face centre, or None.
        first_index: index of the first window.
    """

    rule: ClipRule
    region: tuple[float, float, float, float] | None = None
    first_index: int = 1
    _start: int = 0
    _length: int = 0
    _tracks: dict[int, list[tuple[int, NDArray[np.float32]]]] = field(default_factory=dict)
    _num_faces: list[NDArray[np.int16]] = field(default_factory=list)
    _corrupt: list[NDArray[np.bool_]] = field(default_factory=list)
    _scores: dict[int, float] = field(default_factory=dict)
    _held: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def start(self) -> int:
        """Number of the first frame that is still needed."""
        return self._start

    def push(self, faces: BlockFaces, is_corrupt: NDArray[np.bool_], num_pending: int = 0) -> Iterator[Window]:
        """Takes the next frames; yields the windows they complete.

        The last `num_pending` of them wait for the next block: a cut that it begins with lies before them.
        """
        if len(self._held):
            faces, is_corrupt = faces.after(len(self._held)), np.concatenate([self._held, is_corrupt])
        decided = len(is_corrupt) - num_pending
        self._held = is_corrupt[decided:]
        yield from self._push(faces, is_corrupt[:decided])

    def _push(self, faces: BlockFaces, is_corrupt: NDArray[np.bool_]) -> Iterator[Window]:
        begin, total = 0, len(is_corrupt)
        cuts = [int(at) for at in np.flatnonzero(faces.is_cut[:total])]
        while begin < total:
            cut = next((at for at in cuts if at >= begin), total)
            if cut == begin:
                yield from self._end_shot()
                cuts = [at for at in cuts if at > begin]
                continue
            end = min(cut, begin + self.rule.frames - self._length)
            for track in faces.tracks:
                part = track.landmarks[begin:end]
                if np.isfinite(part).any():
                    self._tracks.setdefault(track.track_id, []).append((self._length, part))
            self._num_faces.append(faces.num_faces[begin:end])
            self._corrupt.append(is_corrupt[begin:end])
            self._length += end - begin
            if self._length == self.rule.frames:
                yield self._close(is_tail=False)
            begin = end

    def finish(self) -> Iterator[Window]:
        """Ends the last shot; yields what is left of it."""
        held, self._held = self._held, self._held[:0]
        yield from self._push(BlockFaces.empty(len(held)), held)
        yield from self._end_shot()

    def _end_shot(self) -> Iterator[Window]:
        if self._length:
            yield self._close(is_tail=self._length < self.rule.min_frames)
        self._scores.clear()

    def _close(self, is_tail: bool) -> Window:
        """The window of the frames collected so far."""
        missing = np.full((self._length, 68, 2), np.nan, np.float32)
        tracks = {}
        for track, parts in self._tracks.items():
            tracks[track] = landmarks = missing.copy()
            for at, part in parts:
                landmarks[at : at + len(part)] = part
            self._scores[track] = self._scores.get(track, 0.0) + _length_times_area(landmarks)
        inside = sorted(tracks)
        if self.region is not None:
            left, top, right, bottom = self.region
            centres = {track: np.nanmedian(tracks[track], axis=(0, 1)) for track in inside}
            inside = [track for track, (x, y) in centres.items() if left <= x <= right and top <= y <= bottom]
        speaker = max(inside, key=lambda track: self._scores[track], default=-1)  # ties go to the older track
        window = Window(
            self.first_index, self._start, tracks.get(speaker, missing), np.concatenate(self._num_faces),
            np.concatenate(self._corrupt), speaker, is_tail,
        )  # fmt: skip
        self._start += self._length
        self.first_index += 1
        self._length = 0
        self._tracks, self._num_faces, self._corrupt = {}, [], []
        return window


def _length_times_area(landmarks: NDArray[np.float32]) -> float:
    """Frames seen times mean squared spread of the points, px^2: a face area that does not depend on the pose much."""
    seen = landmarks[np.isfinite(landmarks).all(axis=(1, 2))]
    return float(np.var(seen.astype(np.float64), axis=1).sum(axis=1).sum()) if len(seen) else 0.0
