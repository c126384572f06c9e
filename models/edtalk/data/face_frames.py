"""FaceFrames: in which frames of a split a face is known, and how far the head is turned in each.

Only such frames are learned from: what an encoder makes of a hidden face or of an empty picture is no motion of a face.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.edtalk.data.mouth_swap import LEFT_EYE, RIGHT_EYE
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot, feature_columns

_NOSE_TIP = 30
# (x, y) @ _COMPLEX = x + iy
_COMPLEX = np.array([1, 1j])


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
        read = _fitted_turns if "face3d" in feature_columns(snapshot) else _drawn_turns
        turns = read(snapshot, clips)
        known = [np.flatnonzero(np.isfinite(own).all(axis=1)) for own in turns]
        chosen = [at for at, frames in enumerate(known) if len(frames) >= fewest]
        self.clips = [clips[at] for at in chosen]
        self.frames: list[NDArray[np.int64]] = [known[at] for at in chosen]
        self.turns = [turns[at][known[at]] for at in chosen]


def known_faces(snapshot: Snapshot, clips: Sequence[ClipRef]) -> list[NDArray[np.bool_]]:
    """Per clip [N] whether a face is known in the frame.

    Args:
        snapshot: with the feature landmarks.
        clips: of the snapshot.

    Raises:
        ConfigError: it has no landmarks.
    """
    try:
        return [found["landmarks_valid"] for found in snapshot.features(clips, "landmarks", ["landmarks_valid"])]
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from None


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


def _drawn_turns(snapshot: Snapshot, clips: Sequence[ClipRef]) -> list[NDArray[np.float32]]:
    """Per clip [N, 2], NaN where there are no landmarks."""
    return [
        head_turn(np.where(found["landmarks_valid"][:, None, None], found["landmarks"], np.nan))
        for found in snapshot.features(clips, "landmarks", ["landmarks", "landmarks_valid"])
    ]


def _fitted_turns(snapshot: Snapshot, clips: Sequence[ClipRef]) -> list[NDArray[np.float32]]:
    """Per clip [N, 2], NaN where there are no landmarks or no fit."""
    fits = snapshot.features(clips, "face3d", ["euler", "face3d_valid"])
    return [
        np.where((fit["face3d_valid"] & is_known)[:, None], fit["euler"][:, :2], np.float32(np.nan))
        for fit, is_known in zip(fits, known_faces(snapshot, clips), strict=True)
    ]
