"""SubjectFrames: the frames that show the face of one person, each video split in time."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.edtalk.data.face_frames import image_of, known_faces
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

Part = Literal["train", "held_out"]
Place = tuple[ClipRef, int]
_NUM_NAMED = 8


class SubjectFrames(Dataset[dict[str, Tensor]]):
    """One item per frame with a face of a part: `reference` and `target`, [3, S, S] float32 -1..1 each.

    The first frames of every source video are part 'train', the last ones 'held_out', whatever clips it was cut into.
    The target is the item's frame, the reference a random other frame of part 'train' of any of the person's clips of
    the same view. The choice depends on (seed, epoch, index) only.

    Args:
        snapshot: with the feature landmarks.
        subject: the person's label; '' takes the person with the most frames with a face. All splits are searched:
            held out are frames, not people.
        part: 'train' or 'held_out'.
        train_share: share of each video's frames with a face that are 'train'.
        size_px: S; stored frames of another size are resized.
        seed: seed of the choice.

    Raises:
        ConfigError: there is no such subject (some that exist are named), or too few frames.

    Attributes:
        subject: the chosen label.
        frames: (clip, frame) of each item.
    """

    def __init__(
        self, snapshot: Snapshot, subject: str, part: Part, train_share: float, size_px: int, seed: int
    ) -> None:
        self._snapshot, self._size_px, self._seed = snapshot, size_px, seed
        clips = snapshot.clips()
        known = zip(clips, known_faces(snapshot, clips), strict=True)
        shown = {clip.clip: np.flatnonzero(own) for clip, own in known if own.any()}
        self.subject = _subject(snapshot, shown, subject)
        self._references: dict[object, list[Place]] = defaultdict(list)
        chosen: list[tuple[Place, object]] = []
        for (view, _), frames in _videos(snapshot, shown, self.subject).items():
            border = round(train_share * len(frames))
            self._references[view] += frames[:border]
            chosen += [(frame, view) for frame in (frames[:border] if part == "train" else frames[border:])]
        if not chosen or min(map(len, self._references.values())) < 2:
            found = f"too few frames with a face for a part {part!r}: {len(chosen)}"
            raise ConfigError(f"subject {self.subject!r} has {found}")
        self.frames, self._views = [frame for frame, _ in chosen], [view for _, view in chosen]
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        places = {"reference": self.reference(index), "target": self.frames[index]}
        return {name: image_of(self._snapshot.frame(*place), self._size_px) for name, place in places.items()}

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; running workers follow."""
        self._epoch.fill_(epoch)

    def reference(self, index: int) -> Place:
        """Clip and frame of an item's reference."""
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        choices = self._references[self._views[index]]
        place = int(rng.integers(len(choices)))
        return choices[place] if choices[place] != self.frames[index] else choices[(place + 1) % len(choices)]


def _subject(snapshot: Snapshot, shown: Mapping[str, NDArray[np.int64]], wanted: str) -> str:
    """The wanted subject, or the one with the most frames with a face."""
    totals: dict[str, int] = defaultdict(int)
    for row in snapshot.rows():
        totals[row["subject"]] += len(shown.get(row["clip"], ()))
    if wanted and wanted not in totals:
        named = sorted(totals)[:_NUM_NAMED]
        raise ConfigError(
            f"no subject {wanted!r} in snapshot {snapshot.body.number}; there are {', '.join(named)}, ..."
        )
    return wanted or max(sorted(totals), key=lambda name: totals[name])


def _videos(
    snapshot: Snapshot, shown: Mapping[str, NDArray[np.int64]], subject: str
) -> dict[tuple[Any, str], list[Place]]:  # fmt: skip
    """(view, source video) -> its frames with a face in order of time, for videos that have any."""
    pairs = zip(snapshot.rows(), snapshot.clips(), strict=True)
    own = [(row, clip) for row, clip in pairs if row["subject"] == subject and clip.clip in shown]
    videos: dict[tuple[Any, str], list[Place]] = defaultdict(list)
    for row, clip in sorted(own, key=lambda pair: (pair[0]["source_id"], pair[0]["window"])):
        videos[row["view"], row["source_id"]] += [(clip, int(frame)) for frame in shown[clip.clip]]
    return dict(videos)
