"""Fields of the items of ClipDataset: which arrays of a clip they come from, and which rows belong to which frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot, feature_columns, find_column
from storage.tables import Column
from storage.timelaw import SAMPLES_PER_FRAME, axis_length, mel_windows

Frames = NDArray[np.int64]
COEFFICIENTS = ("id", "exp", "euler", "trans")
SAMPLES_AXIS = "640N"


class ClipArrays:
    """The arrays of one clip of N frames, read for some of its frames; each feature table is read once per item.

    Every reader takes a field and frames [K] in ascending order (random ones in mode 'frame').
    """

    def __init__(self, snapshot: Snapshot, clip: ClipRef, fields: "Sequence[ClipField]") -> None:
        self.snapshot, self.clip, self._fields = snapshot, clip, fields
        self._read: dict[str, dict[str, Any]] = {}

    def column(self, field: "ClipField") -> Any:
        """The feature column of a field, for the whole clip."""
        extractor = field.extractor
        if extractor not in self._read:
            wanted = sorted({other.column for other in self._fields if other.extractor == extractor})
            self._read[extractor] = self.snapshot.feature(self.clip, extractor, wanted)
        return self._read[extractor][field.column]

    def frames(self, field: "ClipField", frames: Frames) -> Tensor:
        """[K, 3, S, S] uint8 RGB."""
        images = np.stack([self.snapshot.frame(self.clip, int(index)) for index in frames])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def float_frames(self, field: "ClipField", frames: Frames) -> Tensor:
        """[K, 3, S, S] float32 RGB in -1..1."""
        return self.frames(field, frames).float().div_(127.5).sub_(1)

    def audio(self, field: "ClipField", frames: Frames) -> Tensor:
        """[640 K] float32."""
        return self.audio_of_frames(field, frames).flatten()

    def audio_of_frames(self, field: "ClipField", frames: Frames) -> Tensor:
        """[K, 640] float32."""
        return torch.from_numpy(self.snapshot.audio(self.clip).reshape(-1, SAMPLES_PER_FRAME)[frames])

    def mel_windows(self, field: "ClipField", frames: Frames) -> Tensor:
        """[K, 16, 80] windows of a mel at 80 Hz."""
        return torch.from_numpy(mel_windows(self.column(field), self.clip.num_frames)[frames])

    def mel_edtalk(self, field: "ClipField", frames: Frames) -> Tensor:
        """[K, 1, 80, 16], the windows in EDTalk's shape."""
        return self.mel_windows(field, frames).transpose(1, 2).unsqueeze(1).contiguous()

    def fixed(self, field: "ClipField", frames: Frames) -> Any:
        """A value that does not depend on time."""
        value = self.column(field)
        return value if isinstance(value, str) else torch.as_tensor(value)

    def per_frame(self, field: "ClipField", frames: Frames) -> Tensor:
        """[K, ...] rows at 25 Hz."""
        return torch.from_numpy(self.column(field)[frames])

    def twice_per_frame(self, field: "ClipField", frames: Frames) -> Tensor:
        """[2 K, ...] rows at 50 Hz."""
        return torch.from_numpy(self.column(field)[(2 * frames[:, None] + np.arange(2)).ravel()])

    def mel_rows(self, field: "ClipField", frames: Frames) -> Tensor:
        """[1 + 640 K // 200, ...] rows of a mel at 80 Hz, for consecutive frames."""
        first = axis_length("T80", int(frames[0])) - 1
        return torch.from_numpy(self.column(field)[first : first + axis_length("T80", len(frames))])


@dataclass(frozen=True, slots=True)
class ClipField:
    """One field of the items.

    Attributes:
        name: key in the item.
        axis: symbol of its first axis when that depends on the number of frames, else ''.
        read: the reader of ClipArrays that gives its value.
        extractor, column: feature it is read from, empty for frames and audio.
    """

    name: str
    axis: str
    read: "Reader"
    extractor: str = ""
    column: str = ""


Reader = Callable[[ClipArrays, ClipField, Frames], Any]
_MEL_WINDOWS: dict[str, Reader] = {"mel_windows": ClipArrays.mel_windows, "mel_edtalk": ClipArrays.mel_edtalk}
# Symbol of a column's first axis -> its reader; '' is a column that does not depend on time.
_READERS: dict[str, Reader] = {
    "": ClipArrays.fixed,
    "N": ClipArrays.per_frame,
    "2N": ClipArrays.twice_per_frame,
    "T80": ClipArrays.mel_rows,
}


def resolve_fields(
    snapshot: Snapshot, names: Sequence[str], mode: Literal["clip", "frame"], has_float_frames: bool
) -> list[ClipField]:
    """How each named field is read; 'labels' is none of these, 'coefficients' is four.

    Raises:
        ConfigError: the snapshot has no such field (those present are named), or it makes no sense for single frames.
    """
    single = [part for name in names for part in (COEFFICIENTS if name == "coefficients" else (name,))]
    columns = feature_columns(snapshot)
    computed = {
        "frames": ClipField("frames", "N", ClipArrays.float_frames if has_float_frames else ClipArrays.frames),
        "audio": ClipField("audio", SAMPLES_AXIS, ClipArrays.audio)
        if mode == "clip"
        else ClipField("audio", "N", ClipArrays.audio_of_frames),
    }
    return [
        computed.get(name) or _feature_field(columns, mode, name) for name in dict.fromkeys(single) if name != "labels"
    ]


def _feature_field(columns: dict[str, tuple[Column, ...]], mode: Literal["clip", "frame"], name: str) -> ClipField:
    if name in _MEL_WINDOWS:
        extractor, column = find_column(columns, "mel")
        return ClipField(name, "N", _MEL_WINDOWS[name], extractor, column.name)
    extractor, column = find_column(columns, name)
    axis = str(column.shape[0]) if column.is_ragged else ""
    if axis not in _READERS:
        raise ConfigError(f"field {name!r} has axis {axis!r}, which is not one of {', '.join(filter(None, _READERS))}")
    if axis == "T80" and mode == "frame":
        raise ConfigError(f"field {name!r} has 3.2 rows per frame: use mode='clip', or mel_windows for single frames")
    return ClipField(name, axis, _READERS[axis], extractor, column.name)
