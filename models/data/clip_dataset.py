"""ClipDataset: a snapshot as a torch data set; items are whole clips, windows or random frames with chosen fields.

    dataset = ClipDataset(snapshot, ClipOptions(fields=("frames", "mel_edtalk", "labels"), num_frames=5))
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=dataset.collate(), num_workers=4)

Which frames an item holds depends on (seed, epoch, index) only, never on the worker or the order of reading.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from models.data.clip_fields import ClipArrays, resolve_fields
from models.data.collate import Item, PadCollate
from storage.emotions import emotion_id
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClipFilter:
    """Which kept clips are used; None means all.

    Attributes:
        emotions: canonical names of storage.emotions.
        subjects, layouts: by label.
        min_frames: shortest clip.
        has_audio: True leaves out clips whose audio is a placeholder.
        scores: column of the clip table -> (lowest, highest), None for no bound; clips without the score are left out.
    """

    emotions: tuple[str, ...] | None = None
    subjects: tuple[str, ...] | None = None
    layouts: tuple[str, ...] | None = None
    min_frames: int = 1
    has_audio: bool | None = None
    scores: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def accepts(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the clip table passes.

        Raises:
            ConfigError: the table has no such score; those it has are named.
        """
        wanted = ((self.emotions, "emotion"), (self.subjects, "subject"), (self.layouts, "layout"))
        has_label = all(values is None or row[name] in values for values, name in wanted)
        has_audio = self.has_audio is None or row["has_audio"] == self.has_audio
        return has_label and has_audio and row["num_frames"] >= self.min_frames and self._has_scores(row)

    def _has_scores(self, row: Mapping[str, Any]) -> bool:
        for name, (low, high) in self.scores.items():
            if not isinstance(row.get(name), float):
                have = ", ".join(key for key, value in row.items() if isinstance(value, float))
                raise ConfigError(f"the clips have no score {name!r}; there are {have}")
            is_low = low is not None and not row[name] >= low
            is_high = high is not None and not row[name] <= high
            if is_low or is_high:
                return False
        return True


@dataclass(frozen=True, slots=True)
class ClipOptions:
    """Content of an item.

    Attributes:
        fields: any of 'frames', 'audio', 'mel_windows', 'mel_edtalk', 'labels', 'coefficients' (id, exp, euler and
            trans of face3d), and every feature column of the snapshot by name, where ambiguous as `extractor.column`.
        mode: 'clip' gives consecutive frames, 'frame' gives random ones, each at most once.
        num_frames: K; None is the whole clip in mode 'clip' and 1 in mode 'frame'.
        start: where a window of K frames begins in mode 'clip'.
        has_float_frames: frames as float32 in [-1, 1] instead of uint8.
        split: 'train', 'val', 'test', or None for all.
        where: which clips of the split.
        seed: of every random choice.
    """

    fields: tuple[str, ...] = ("frames",)
    mode: Literal["clip", "frame"] = "clip"
    num_frames: int | None = None
    start: Literal["random", "first"] = "random"
    has_float_frames: bool = True
    split: str | None = "train"
    where: ClipFilter = ClipFilter()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.num_frames < 1:
            raise ConfigError(f"num_frames is {self.num_frames}; it must be 1 or more, or None")

    @property
    def min_frames(self) -> int:
        """Frames that a clip must have at least."""
        return self.num_frames or 1


class ClipDataset(Dataset[Item]):
    """The clips of a snapshot that fit the options, in the order of their names.

    An item of K frames is a mapping with

        name         str, the clip's name            index        int, the item's number
        num_frames   int, K                          frame        int64 [K], which frames of the clip

    and per field of the options

        frames       [K, 3, S, S] float32 -1..1 or uint8, RGB
        audio        [640 K] float32; in mode 'frame' [K, 640]
        mel_windows  [K, 16, 80] float32             mel_edtalk   [K, 1, 80, 16] float32, the same in EDTalk's shape
        labels       emotion (0..7, -1 unknown), subject (index in `subjects`) and level (-1 unknown), int each
        a column     rows of these K frames: [K, ...] at 25 Hz, [2 K, ...] at 50 Hz, 1 + 640 K // 200 rows of a mel at
                     80 Hz (mode 'clip' only), the whole of what does not depend on time

    Nothing is open before the first item is read, so it can be forked and pickled.

    Args:
        snapshot: to read.
        options: what an item is.

    Raises:
        ConfigError: a field is not in the snapshot (those present are named), or no clip fits.

    Attributes:
        subjects: labels by subject index, of all kept clips whatever their split.
        num_too_short: clips left out because they have fewer than K frames.
    """

    def __init__(self, snapshot: Snapshot, options: ClipOptions) -> None:
        self.snapshot, self.options = snapshot, options
        rows = snapshot.rows()
        self.subjects = tuple(sorted({row["subject"] for row in rows}))
        chosen = [
            (row, clip)
            for row, clip in zip(rows, snapshot.clips(), strict=True)
            if options.split in (None, row["split"]) and options.where.accepts(row)
        ]
        self._clips = [clip for _, clip in chosen if clip.num_frames >= options.min_frames]
        self.num_too_short = len(chosen) - len(self._clips)
        self._require_clips(len(rows))
        self._labels = [self._label(row) for row, clip in chosen if clip.num_frames >= options.min_frames]
        self._has_labels = "labels" in options.fields
        self._fields = resolve_fields(snapshot, options.fields, options.mode, options.has_float_frames)
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index %= len(self)
        clip = self._clips[index]
        frames = self._choose(clip.num_frames, index)
        item: Item = {"name": clip.name, "index": index, "num_frames": len(frames), "frame": torch.from_numpy(frames)}
        if self._has_labels:
            item |= self._labels[index]
        arrays = ClipArrays(self.snapshot, clip, self._fields)
        for chosen in self._fields:
            item[chosen.name] = chosen.read(arrays, chosen, frames)
        return item

    @property
    def epoch(self) -> int:
        """The epoch that the random choices depend on, besides seed and index."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; call it before the loader is iterated. Running workers follow."""
        self._epoch.fill_(epoch)

    def collate(self) -> PadCollate:
        """Makes batches of items whose lengths differ."""
        return PadCollate({"frame": "N"} | {chosen.name: chosen.axis for chosen in self._fields if chosen.axis})

    def clip(self, index: int) -> ClipRef:
        """Where the clip of an item lies."""
        return self._clips[index]

    def _choose(self, num_frames: int, index: int) -> NDArray[np.int64]:
        """[K] the frames of an item, of a clip with `num_frames`."""
        rng = np.random.default_rng([self.options.seed, self.epoch, index])
        if self.options.mode == "frame":
            return rng.choice(num_frames, self.options.min_frames, replace=False).astype(np.int64)
        count = self.options.num_frames or num_frames
        first = int(rng.integers(num_frames - count + 1)) if self.options.start == "random" else 0
        return np.arange(first, first + count, dtype=np.int64)

    def _label(self, row: Mapping[str, Any]) -> dict[str, int]:
        level = int(row["level"]) if row["level"].isdecimal() else -1
        return {"emotion": emotion_id(row["emotion"]), "subject": self.subjects.index(row["subject"]), "level": level}

    def _require_clips(self, num_kept: int) -> None:
        if not self._clips:
            body, options = self.snapshot.body, self.options
            raise ConfigError(
                f"no clip fits: snapshot {body.number} keeps {num_kept} clips {body.splits}, split {options.split!r}"
                f" and {options.where} leave {self.num_too_short}, which have fewer than {options.min_frames} frames"
            )


def validation_set(make: Callable[[], T]) -> T | None:
    """The data set that `make` returns; None where nothing in split 'val' fits, which is no reason not to train.

    Make the training set with the same settings first, so that an error in them is raised there and not hidden here.
    """
    try:
        return make()
    except ConfigError:
        return None
