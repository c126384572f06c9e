"""FramePairs: two frames of one person, a reference that is redrawn and the target that it should become."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.data.clip_dataset import ClipFilter
from models.edtalk.data.face_frames import image_of, known_faces
from storage.emotions import EMOTIONS
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

NEUTRAL = "neutral"


class FramePairs(Dataset[dict[str, Tensor]]):
    """One item per clip that shows a face: `reference` and `target`, [3, S, S] float32 -1..1 each.

    Only frames with a face are chosen. The target is a random one of the clip. For a clip with a known emotion the
    reference is a random frame of a random neutral clip of the same subject and view, or of any of their clips when
    none is neutral; for other clips it is another frame of the same clip. The choice depends on (seed, epoch, index)
    only.

    Args:
        snapshot: with the feature landmarks.
        split: 'train', 'val' or 'test'.
        size_px: S; stored frames of another size are resized.
        seed: seed of the choice.
        where: filter of the split's clips.

    Raises:
        ConfigError: no clip passes the filter and shows a face.
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
        self._references = reference_clips([row for row, *_ in chosen])
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        places = zip(("reference", "target"), self.choose(index), strict=True)
        return {name: image_of(self._snapshot.frame(*place), self._size_px) for name, place in places}

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; running workers follow."""
        self._epoch.fill_(epoch)

    def choose(self, index: int) -> tuple[tuple[ClipRef, int], tuple[ClipRef, int]]:
        """Clip and frame of the reference and of the target; they differ if the clip has two frames with a face."""
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        candidates = self._references[index]
        clips = candidates[int(rng.integers(len(candidates)))], index
        places = [int(rng.integers(len(self._frames[clip]))) for clip in clips]
        if clips[0] == clips[1] and places[0] == places[1]:
            places[1] = (places[1] + 1) % len(self._frames[index])
        reference, target = (
            (self._clips[clip], int(self._frames[clip][place])) for clip, place in zip(clips, places, strict=True)
        )
        return reference, target


def reference_clips(rows: Sequence[dict[str, object]]) -> list[list[int]]:
    """Per clip the clips from which its reference may be taken."""
    # a view from the side shows another face than one from the front: they are not mixed
    owners, people = [(row["subject"], row["view"]) for row in rows], defaultdict[object, list[int]](list)
    for index, owner in enumerate(owners):
        people[owner].append(index)
    neutral = {owner: [i for i in clips if rows[i]["emotion"] == NEUTRAL] or clips for owner, clips in people.items()}
    return [neutral[owners[i]] if row["emotion"] in EMOTIONS else [i] for i, row in enumerate(rows)]
