"""FaceFrames: the frames of clips that show a face, with the turn of the head in each; stored frames as tensors.

Only such frames are used for training: the code of a hidden face or of an empty image is no motion of a face.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.edtalk.data.mouth_swap import LEFT_EYE, RIGHT_EYE
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot, feature_columns

_NOSE_TIP = 30
# (x, y) @ _COMPLEX = x + iy
_COMPLEX = np.array([1, 1j])


class FaceFrames:
    """The frames of clips whose landmarks are known (and whose head pose is, where the snapshot has face3d).

    Args:
        snapshot: with the feature landmarks.
        clips: clips of it.
        fewest: clips with fewer such frames are left out.

    Attributes:
        clips: the remaining clips, [C].
        frames: per clip the frames with a face, ascending.
        turns: per clip [frames, 2] float32 pitch and yaw of the head in rad with face3d; without it the place of the
            nose's tip between the eyes, in units of their distance. The second form serves for differences only.
    """

    def __init__(self, snapshot: Snapshot, clips: Sequence[ClipRef], fewest: int = 2) -> None:
        turns = head_turns(snapshot, clips)
        known = [np.flatnonzero(np.isfinite(own).all(axis=1)) for own in turns]
        chosen = [at for at, frames in enumerate(known) if len(frames) >= fewest]
        self.clips = [clips[at] for at in chosen]
        self.frames: list[NDArray[np.int64]] = [known[at] for at in chosen]
        self.turns = [turns[at][known[at]] for at in chosen]


def image_of(frame: NDArray[np.uint8], size_px: int) -> Tensor:
    """[H, H, 3] uint8 RGB -> [3, S, S] float32 -1..1, resized where H is not S."""
    image = torch.from_numpy(frame).permute(2, 0, 1).float().div_(127.5).sub_(1)
    if image.shape[-1] == size_px:
        return image
    return functional.interpolate(image[None], (size_px, size_px), mode="bilinear", antialias=True)[0]


def known_faces(snapshot: Snapshot, clips: Sequence[ClipRef]) -> list[NDArray[np.bool_]]:
    """Per clip [N] whether a face was found in the frame.

    Args:
        snapshot: with the feature landmarks.
        clips: clips of it.

    Raises:
        ConfigError: the snapshot has no landmarks.
    """
    try:
        return [found["landmarks_valid"] for found in snapshot.features(clips, "landmarks", ["landmarks_valid"])]
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from None


def head_turns(snapshot: Snapshot, clips: Sequence[ClipRef]) -> list[NDArray[np.float32]]:
    """Per clip [N, 2], see FaceFrames; NaN where there are no landmarks or, with face3d, no fit."""
    if "face3d" not in feature_columns(snapshot):
        return [
            nose_place(np.where(found["landmarks_valid"][:, None, None], found["landmarks"], np.nan))
            for found in snapshot.features(clips, "landmarks", ["landmarks", "landmarks_valid"])
        ]
    fits = snapshot.features(clips, "face3d", ["euler", "face3d_valid"])
    return [
        np.where((fit["face3d_valid"] & is_known)[:, None], fit["euler"][:, :2], np.float32(np.nan))
        for fit, is_known in zip(fits, known_faces(snapshot, clips), strict=True)
    ]


def nose_place(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """[N, 2] offset, down and to the right, of the nose's tip from the middle between the eyes.

    Measured along the line of the eyes in units of their distance, so that roll, size and place of the face cancel out.

    Args:
        landmarks: [N, 68, 2] px; a frame with NaN gives NaN.
    """
    places = np.full((len(landmarks), 2), np.nan, np.float32)
    known = np.isfinite(landmarks).all(axis=(1, 2))
    faces = landmarks[known] @ _COMPLEX
    left, right = faces[:, LEFT_EYE].mean(axis=1), faces[:, RIGHT_EYE].mean(axis=1)
    place = (faces[:, _NOSE_TIP] - (left + right) / 2) / (right - left)
    places[known] = np.stack([place.imag, place.real], axis=1)
    return places
