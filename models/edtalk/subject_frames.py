"""SubjectFrames: the frames of one person, parted in time."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.edtalk.images import image_of
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

Part = Literal["train", "held_out"]
_NUM_NAMED = 8


class SubjectFrames(Dataset[dict[str, Tensor]]):
    """One item per frame of a part: `source` and `target`, [3, S, S] float32 -1..1 each.

    Of every source video the first frames are part 'train', the last ones 'held_out', whatever clips it was cut into.
    The target is the item's frame, the source a random other frame of part 'train' of any of the person's clips of the
    same view. The choice depends on (seed, epoch, index) only.

    Args:
        snapshot: to read.
        subject: of whom; '' is who has the most frames. All splits are searched: held out are frames, not people.
        part: 'train' or 'held_out'.
        train_share: of the frames of each video that are 'train'.
        size_px: S; stored frames of another size are resized.
        seed: of the choice.

    Raises:
        ConfigError: there is no such subject (some who are there are named), or too few frames.

    Attributes:
        subject: chosen.
        frames: (clip, frame) of each item.
    """

    def __init__(
        self, snapshot: Snapshot, subject: str, part: Part, train_share: float, size_px: int, seed: int
    ) -> None:
        self._snapshot, self._size_px, self._seed = snapshot, size_px, seed
        self.subject = _subject(snapshot, subject)
        videos = _videos(snapshot, self.subject)
        parts = [_parted(clips, train_share) for clips in videos.values()]
        self._sources: dict[object, list[tuple[ClipRef, int]]] = defaultdict(list)
        for (view, _), (train, _) in zip(videos, parts, strict=True):
            self._sources[view] += train
        chosen = [(frame, view) for (view, _), own in zip(videos, parts, strict=True) for frame in own[part != "train"]]
        if not chosen or min(map(len, self._sources.values())) < 2:
            raise ConfigError(f"subject {self.subject!r} has too few frames for a part {part!r}: {len(chosen)}")
        self.frames, self._views = [frame for frame, _ in chosen], [view for _, view in chosen]
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"source": self._image(*self.source(index)), "target": self._image(*self.frames[index])}

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; running workers follow."""
        self._epoch.fill_(epoch)

    def source(self, index: int) -> tuple[ClipRef, int]:
        """Clip and frame of an item's source."""
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        choices = self._sources[self._views[index]]
        place = int(rng.integers(len(choices)))
        return choices[place] if choices[place] != self.frames[index] else choices[(place + 1) % len(choices)]

    def _image(self, clip: ClipRef, frame: int) -> Tensor:
        return image_of(self._snapshot.frame(clip, frame), self._size_px)


def _subject(snapshot: Snapshot, wanted: str) -> str:
    """The wanted subject, or who has the most frames."""
    totals: dict[str, int] = defaultdict(int)
    for row in snapshot.rows():
        totals[row["subject"]] += row["num_frames"]
    if wanted and wanted not in totals:
        named = sorted(totals)[:_NUM_NAMED]
        raise ConfigError(
            f"no subject {wanted!r} in snapshot {snapshot.body.number}; there are {', '.join(named)}, ..."
        )
    return wanted or max(sorted(totals), key=lambda name: totals[name])


def _videos(snapshot: Snapshot, subject: str) -> dict[tuple[Any, str], list[ClipRef]]:
    """(view, source video) -> its clips in the order of time."""
    rows = snapshot.rows()
    own = [(row, clip) for row, clip in zip(rows, snapshot.clips(), strict=True) if row["subject"] == subject]
    videos: dict[tuple[Any, str], list[ClipRef]] = defaultdict(list)
    for row, clip in sorted(own, key=lambda pair: (pair[0]["source_id"], pair[0]["window"])):
        videos[row["view"], row["source_id"]].append(clip)
    return dict(videos)


def _parted(clips: Sequence[ClipRef], train_share: float) -> tuple[list[tuple[ClipRef, int]], ...]:
    """The first frames of a video, and the rest."""
    frames = [(clip, frame) for clip in clips for frame in range(clip.num_frames)]
    border = round(train_share * len(frames))
    return frames[:border], frames[border:]
