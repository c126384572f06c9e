"""MotionClips: whole clips of a snapshot as face motion with its audio, and windows of them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.data.clip_dataset import ClipDataset, ClipFilter, ClipOptions
from storage.snapshot import Snapshot, feature_columns, find_column

AudioChoice = Literal["auto", "mel50", "hubert"]


@dataclass(frozen=True, slots=True)
class MotionClip:
    """One clip of N frames.

    Attributes:
        name: of the clip.
        emotion: id 0..7, -1 unknown.
        level: of intensity, -1 unknown.
        lm3d: [N, 68, 3] float32 model units, NaN where not valid.
        exp: [N, Ke] float32 expression coefficients, NaN where not valid.
        valid: [N] bool, the frame has a face that was fitted.
        audio: [2 N, A] float32, the chosen feature at 50 Hz.
        mel50: [2 N, 80] float32 log10 amplitude.
        f0_hz: [2 N] float32, 0 = unvoiced.
    """

    name: str
    emotion: int
    level: int
    lm3d: NDArray[np.float32]
    exp: NDArray[np.float32]
    valid: NDArray[np.bool_]
    audio: NDArray[np.float32]
    mel50: NDArray[np.float32]
    f0_hz: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.valid)


@dataclass(frozen=True, slots=True)
class ClipLabels:
    """Labels of a clip from the clip table; empty where unknown."""

    subject: str
    emotion: str
    take: str


class MotionClips:
    """The clips of a split, in the order of their names.

    Args:
        snapshot: with the features face3d and mel50, and the one `audio` names.
        split: 'train', 'val' or 'test'.
        audio: column of 50 rows a second, see `audio_column`.
        where: which clips.

    Raises:
        ConfigError: a feature is not in the snapshot, or no clip fits.

    Attributes:
        labels: of each clip.
    """

    def __init__(self, snapshot: Snapshot, split: str, audio: str, where: ClipFilter) -> None:
        fields = ("face3d.lm3d", "face3d.exp", "face3d.face3d_valid", audio, "mel50", "f0_hz", "labels")
        self._clips = ClipDataset(snapshot, ClipOptions(fields=fields, split=split, where=where))
        self._audio = audio
        rows = {row["clip"]: row for row in snapshot.rows()}
        chosen = [rows[self._clips.clip(index).clip] for index in range(len(self._clips))]
        self.labels = [ClipLabels(row["subject"], row["emotion"], row.get("take", "")) for row in chosen]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> MotionClip:
        item = self._clips[index]
        lm3d, exp = item["face3d.lm3d"].numpy(), item["face3d.exp"].numpy()
        return MotionClip(
            name=item["name"],
            emotion=item["emotion"],
            level=item["level"],
            lm3d=lm3d,
            exp=exp,
            # a fit that is marked good but not finite would reach the loss
            valid=item["face3d.face3d_valid"].numpy() & np.isfinite(lm3d).all((1, 2)) & np.isfinite(exp).all(1),
            audio=item[self._audio].numpy().astype(np.float32, copy=False),
            mel50=item["mel50"].numpy(),
            f0_hz=item["f0_hz"].numpy(),
        )

    def spread(self, count: int) -> list[int]:
        """At most `count` clip numbers, evenly spread over all."""
        return sorted({int(number) for number in np.linspace(0, len(self) - 1, min(count, len(self))).round()})


def audio_column(snapshot: Snapshot, choice: AudioChoice) -> str:
    """The column that `choice` stands for; 'auto' is hubert where the snapshot holds it, else mel50.

    Raises:
        ConfigError: the snapshot does not hold it.
    """
    columns = feature_columns(snapshot)
    if choice == "auto":
        return "hubert" if any(column.name == "hubert" for column in columns.get("hubert", ())) else "mel50"
    return find_column(columns, choice)[1].name


def has_clips(snapshot: Snapshot, split: str, where: ClipFilter) -> bool:
    """Whether any clip of a split passes."""
    return any(row["split"] == split and where.accepts(row) for row in snapshot.rows())


def window(rows: NDArray, first: int, count: int, fill: float | bool) -> NDArray:
    """Rows first .. first + count - 1, with `fill` for those behind the end: always `count` rows."""
    part = rows[first : first + count]
    rest = np.full((count - len(part), *rows.shape[1:]), fill, rows.dtype)
    return np.concatenate([part, rest])
