"""FaceFrames: in which frames of a split a face is known, and how far the head is turned in each."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.edtalk.mouth_swap import LEFT_EYE, RIGHT_EYE
from storage.feature_columns import feature_columns
from storage.snapshot import ClipRef, ShardEntry, Snapshot
from storage.tables import read_table, to_numpy

_NOSE_TIP = 30
# (x, y) @ _COMPLEX = x + iy
_COMPLEX = np.array([1, 1j])
_FEATURES_TABLE = "features.parquet"


class FaceFrames:
    """The frames of some clips whose landmarks are known (and whose head pose is, where the snapshot has face3d).

    Args:
        snapshot: with the feature landmarks.
        clips: which of its clips.
        fewest: clips with fewer such frames are left out.

    Attributes:
        clips: that are left, [C].
        frames: per clip the frames with a face, ascending.
        turns: per clip [frames, 2] float32 pitch and yaw of the head, in rad with face3d; without it where the tip of
            the nose lies between the eyes, in units of their distance. In the second form only differences mean much.
    """

    def __init__(self, snapshot: Snapshot, clips: Sequence[ClipRef], fewest: int = 2) -> None:
        has_fit = "face3d" in feature_columns(snapshot)
        found = {}
        for shard, members in _by_shard(clips):
            read = _fitted_turns if has_fit else _drawn_turns
            found |= {clip.clip: turns for clip, turns in zip(members, read(snapshot, shard, members), strict=True)}
        known = {key: np.flatnonzero(np.isfinite(turns).all(axis=1)) for key, turns in found.items()}
        self.clips = [clip for clip in clips if len(known[clip.clip]) >= fewest]
        self.frames: list[NDArray[np.int64]] = [known[clip.clip] for clip in self.clips]
        self.turns = [found[clip.clip][known[clip.clip]] for clip in self.clips]


def head_turn(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """[N, 2] how far down and to the right the tip of the nose lies of the middle between the eyes.

    Seen along the line of the eyes and in units of their distance, so that rolling, size and place do not count.

    Args:
        landmarks: [N, 68, 2] px; a frame with NaN gives NaN.
    """
    turns = np.full((len(landmarks), 2), np.nan, np.float32)
    known = np.isfinite(landmarks).all(axis=(1, 2))
    faces = landmarks[known] @ _COMPLEX
    left, right = faces[:, LEFT_EYE].mean(axis=1), faces[:, RIGHT_EYE].mean(axis=1)
    place = (faces[:, _NOSE_TIP] - (left + right) / 2) / (right - left)
    turns[known] = np.stack([place.imag, place.real], axis=1)
    return turns


def _by_shard(clips: Sequence[ClipRef]) -> list[tuple[ShardEntry, list[ClipRef]]]:
    members: dict[str, list[ClipRef]] = defaultdict(list)
    for clip in clips:
        members[clip.shard.shard_id].append(clip)
    return [(own[0].shard, own) for own in members.values()]


def _drawn_turns(snapshot: Snapshot, shard: ShardEntry, clips: list[ClipRef]) -> list[NDArray[np.float32]]:
    """Per clip [N, 2], NaN where there are no landmarks."""
    return [
        head_turn(np.where(valid[:, None, None], points, np.nan))
        for points, valid in _columns(snapshot, shard, clips, "landmarks", "landmarks", "landmarks_valid")
    ]


def _fitted_turns(snapshot: Snapshot, shard: ShardEntry, clips: list[ClipRef]) -> list[NDArray[np.float32]]:
    """Per clip [N, 2], NaN where there are no landmarks or no fit."""
    fits = _columns(snapshot, shard, clips, "face3d", "euler", "face3d_valid")
    known = _columns(snapshot, shard, clips, "landmarks", "landmarks_valid")
    return [
        np.where((is_fitted & has_points)[:, None], euler[:, :2], np.float32(np.nan))
        for (euler, is_fitted), (has_points,) in zip(fits, known, strict=True)
    ]


def _columns(
    snapshot: Snapshot, shard: ShardEntry, clips: list[ClipRef], extractor: str, *names: str
) -> list[tuple[NDArray, ...]]:
    """Per clip some columns of an extractor. A shard's table is read at once: clip by clip it would take minutes."""
    path = snapshot.objects.path(shard.features[extractor].key) / _FEATURES_TABLE
    table = read_table(path, names)
    return [tuple(to_numpy(table, name, clip.row) for name in names) for clip in clips]
