"""FramePairs: two frames of one person, one to start from and one to arrive at."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.data.clip_dataset import ClipFilter
from models.edtalk.data.face_frames import known_faces
from models.edtalk.data.images import image_of
from storage.emotions import EMOTIONS
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

NEUTRAL = "neutral"


class FramePairs(Dataset[dict[str, Tensor]]):
    """One item per clip that shows a face: `source` and `target`, [3, S, S] float32 -1..1 each.

    Only frames with a face are chosen. The target is a random one of the clip. Of a clip whose emotion is known the
    source is a random frame of a random neutral clip of the same subject and view, or of any of their clips when none
    is neutral. Of other clips it is another frame of the same clip. The choice depends on (seed, epoch, index) only.

    Args:
        snapshot: with the feature landmarks.
        split: 'train', 'val' or 'test'.
        size_px: S; stored frames of another size are resized.
        seed: of the choice.
        where: which clips of the split.

    Raises:
        ConfigError: no clip fits and shows a face.
    """

    def __init__(
        self, snapshot: Snapshot, split: str, size_px: int, seed: int, where: ClipFilter | None = None
    ) -> None:
        self._snapshot, self._size_px, self._seed = snapshot, size_px, seed
        where = where or ClipFilter()
        pairs = zip(snapshot.rows(split), snapshot.clips(split), strict=True)
        fitting = [(row, clip) for row, clip in pairs if where.accepts(row)]
        known = known_faces(snapshot, [clip for _, clip in fitting])
        chosen = [(*pair, np.flatnonzero(own)) for pair, own in zip(fitting, known, strict=True) if own.any()]
        if not chosen:
            number = snapshot.body.number
            raise ConfigError(f"snapshot {number} has no clip in split {split!r} that shows a face and fits {where}")
        self._clips, self._frames = [clip for _, clip, _ in chosen], [frames for *_, frames in chosen]
        self._sources = _source_clips([row for row, *_ in chosen])
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        (source_clip, source_frame), (target_clip, target_frame) = self.choose(index)
        return {"source": self._image(source_clip, source_frame), "target": self._image(target_clip, target_frame)}

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; running workers follow."""
        self._epoch.fill_(epoch)

    def choose(self, index: int) -> tuple[tuple[ClipRef, int], tuple[ClipRef, int]]:
        """Clip and frame of the source and of the target; never the same frame, if the clip has two with a face."""
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        sources = self._sources[index]
        source, target = sources[int(rng.integers(len(sources)))], index
        num_source, num_target = len(self._frames[source]), len(self._frames[target])
        source_place, target_place = int(rng.integers(num_source)), int(rng.integers(num_target))
        if source == target and source_place == target_place:
            target_place = (target_place + 1) % num_target
        return self._at(source, source_place), self._at(target, target_place)

    def _at(self, number: int, place: int) -> tuple[ClipRef, int]:
        """A clip and one of its frames with a face."""
        return self._clips[number], int(self._frames[number][place])

    def _image(self, clip: ClipRef, frame: int) -> Tensor:
        return image_of(self._snapshot.frame(clip, frame), self._size_px)


def _source_clips(rows: Sequence[dict[str, object]]) -> list[list[int]]:
    """Per clip: the clips its source may come from."""
    people: dict[object, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        people[_person(row)].append(index)
    neutral = {person: [i for i in clips if rows[i]["emotion"] == NEUTRAL] or clips for person, clips in people.items()}
    return [neutral[_person(row)] if row["emotion"] in EMOTIONS else [i] for i, row in enumerate(rows)]


def _person(row: dict[str, object]) -> tuple[object, object]:
    """A view from the side shows another face than one from the front: they are not mixed."""
    return row["subject"], row["view"]
