"""Closeup: some clips of a snapshot, each cut again closely around its face."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.snapshot import ClipRef, Snapshot

# Of the longer side of what landmarks cover in all frames of the clip: brows and chin, and a little around.
_ROOM = 1.15


class Closeup(Snapshot):
    """Frames have the same size as before and show less of what is around the face; landmarks are those in them.

    What was read is kept in memory. Other features are left as they are, so that only those fit which do not depend on
    where in the picture a face is.

    Args:
        whole: the snapshot.
        subjects: whose clips; none takes all.
    """

    def __init__(self, whole: Snapshot, subjects: Sequence[str] = ()) -> None:
        super().__init__(whole.store, whole.id, whole.created_at, whole.body)
        self._subjects = frozenset(subjects)
        self._cut_frames: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self._features: dict[tuple[str, ...], dict[str, Any]] = {}
        self._closer: dict[str, NDArray[np.float64]] = {}

    def rows(self, split: str | None = None, kept: bool = True) -> list[dict[str, Any]]:
        """As Snapshot, of the chosen subjects."""
        return [row for row in super().rows(split, kept) if not self._subjects or row["subject"] in self._subjects]

    def frame(self, clip: ClipRef, index: int) -> NDArray[np.uint8]:
        """As Snapshot."""
        if (clip.clip, index) not in self._cut_frames:
            self._cut_frames[clip.clip, index] = _cut(super().frame(clip, index), self._transform(clip))
        return self._cut_frames[clip.clip, index]

    def feature(self, clip: ClipRef, extractor: str, columns: list[str] | None = None) -> dict[str, Any]:
        """As Snapshot."""
        key = clip.clip, extractor, *(columns or ())
        if key not in self._features:
            self._features[key] = self._moved(clip, super().feature(clip, extractor, columns))
        return self._features[key]

    def features(self, clips: Sequence[ClipRef], extractor: str, columns: list[str]) -> list[dict[str, Any]]:
        """As Snapshot."""
        found = super().features(clips, extractor, columns)
        return [self._moved(clip, values) for clip, values in zip(clips, found, strict=True)]

    def _moved(self, clip: ClipRef, values: dict[str, Any]) -> dict[str, Any]:
        if "landmarks" not in values:
            return values
        transform = self._transform(clip)
        return values | {"landmarks": (values["landmarks"] @ transform[:, :2].T + transform[:, 2]).astype(np.float32)}

    def _transform(self, clip: ClipRef) -> NDArray[np.float64]:
        """[2, 3] from px of the stored frames to px of these."""
        if clip.clip not in self._closer:
            points = super().feature(clip, "landmarks", ["landmarks"])["landmarks"].astype(np.float64)
            self._closer[clip.clip] = _closer(points, len(super().frame(clip, 0)))
        return self._closer[clip.clip]


def _closer(points: NDArray[np.float64], size_px: int) -> NDArray[np.float64]:
    """[2, 3] transform that makes a square around landmarks [N, 68, 2] the picture; the square lies within it."""
    low, high = np.nanmin(points, axis=(0, 1)), np.nanmax(points, axis=(0, 1))
    side = min(float(size_px), _ROOM * float((high - low).max()))
    corner, scale = np.clip((low + high - side) / 2, 0, size_px - side), size_px / side
    # centres of pixels have whole coordinates: the edge of the square is half a pixel before, and so is the picture's
    return np.column_stack([scale * np.eye(2), scale * (0.5 - corner) - 0.5])


def _cut(image: NDArray[np.uint8], transform: NDArray[np.float64]) -> NDArray[np.uint8]:
    size = image.shape[1], image.shape[0]
    cut = cv2.warpAffine(image, transform, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return cut.astype(np.uint8, copy=False)
