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

COEFFICIENTS = ("id", "exp", "euler", "trans")
SAMPLES_AXIS = "640N"


class ClipArrays:
    """The arrays of one clip; each feature table is read once per item."""

    def __init__(self, snapshot: Snapshot, clip: ClipRef, fields: "Sequence[ClipField]") -> None:
        self.snapshot, self.clip, self._fields = snapshot, clip, fields
        self._read: dict[str, dict[str, Any]] = {}

    def column(self, extractor: str, name: str) -> Any:
        """A column of the clip."""
        if extractor not in self._read:
            wanted = sorted({field.column for field in self._fields if field.extractor == extractor})
            self._read[extractor] = self.snapshot.feature(self.clip, extractor, wanted)
        return self._read[extractor][name]


@dataclass(frozen=True, slots=True)
class ClipField:
    """One field of the items.

    Attributes:
        name: key in the item.
        axis: symbol of its first axis when that depends on the number of frames, else ''.
        take: (source, field, frames) -> value.
        extractor, column: feature it is read from, '' when it is none.
    """

    name: str
    axis: str
    take: "Callable[[ClipArrays, ClipField, NDArray[np.int64]], Any]"
    extractor: str = ""
    column: str = ""


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
        "frames": ClipField("frames", "N", _float_frames if has_float_frames else _frames),
        "audio": ClipField("audio", SAMPLES_AXIS, _audio)
        if mode == "clip"
        else ClipField("audio", "N", _audio_of_frames),
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
    if axis not in _TAKE:
        raise ConfigError(f"field {name!r} has axis {axis!r}, which is not one of {', '.join(filter(None, _TAKE))}")
    if axis == "T80" and mode == "frame":
        raise ConfigError(f"field {name!r} has 3.2 rows per frame: use mode='clip', or mel_windows for single frames")
    return ClipField(name, axis, _TAKE[axis], extractor, column.name)


def _frames(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    pictures = np.stack([source.snapshot.frame(source.clip, int(index)) for index in frames])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _float_frames(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    return _frames(source, field, frames).float().div_(127.5).sub_(1)


def _audio(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    return _audio_of_frames(source, field, frames).flatten()


def _audio_of_frames(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(source.snapshot.audio(source.clip).reshape(-1, SAMPLES_PER_FRAME)[frames])


def _mel_windows(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    mel = source.column(field.extractor, field.column)
    return torch.from_numpy(mel_windows(mel, source.clip.num_frames)[frames])


def _mel_edtalk(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    return _mel_windows(source, field, frames).transpose(1, 2).unsqueeze(1).contiguous()


def _fixed(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Any:
    value = source.column(field.extractor, field.column)
    return value if isinstance(value, str) else torch.as_tensor(value)


def _per_frame(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(source.column(field.extractor, field.column)[frames])


def _twice_per_frame(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    rows = (2 * frames[:, None] + np.arange(2)).ravel()
    return torch.from_numpy(source.column(field.extractor, field.column)[rows])


def _mel_rows(source: ClipArrays, field: ClipField, frames: NDArray[np.int64]) -> Tensor:
    first = axis_length("T80", int(frames[0])) - 1
    values = source.column(field.extractor, field.column)
    return torch.from_numpy(values[first : first + axis_length("T80", len(frames))])


_MEL_WINDOWS = {"mel_windows": _mel_windows, "mel_edtalk": _mel_edtalk}
_TAKE: dict[str, Callable[[ClipArrays, ClipField, NDArray[np.int64]], Any]] = {
    "": _fixed,
    "N": _per_frame,
    "2N": _twice_per_frame,
    "T80": _mel_rows,
}
