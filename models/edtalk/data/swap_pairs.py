"""SwapPairs: two people, each seen twice, and each with the mouth of the other."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from models.edtalk.data.face_frames import FaceFrames
from models.edtalk.data.images import image_of
from models.edtalk.data.mouth_swap import Face, SwapOptions, mouth_mask, swap_mouth
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

Frame = tuple[int, int]
# Of a 256-px image.
MOUTH_MARGIN_PX = 12.0


class SwapPairs(Dataset[dict[str, Tensor]]):
    """One item per clip that shows a face in two frames or more; its partner is a frame of another clip, or, in
    `own_share` of the choices, another frame of the same.

    The clip is person A, the partner B. An item holds, for A and B in this order, [2, 3, S, S] float32 -1..1 each,

        source      a frame of the clip
        target      another frame of the clip
        swapped     the target with the mouth of the other one's target

    and [2, 1, S, S] float32 0..1

        mouth       how much of each pixel of the target is mouth: lips and MOUTH_MARGIN_PX around them

    Of `num_candidates` frames drawn from all other clips, the one whose head is turned most like A's is B's target: a
    mouth seen from the side does not fit a face seen from the front. The choice depends on (seed, epoch, index) only.

    Args:
        snapshot: with the feature landmarks; heads are compared by face3d where it has that, else by landmarks.
        split: 'train', 'val' or 'test'.
        size_px: S; mouths are swapped at the stored size.
        seed: of the choice.
        num_candidates: 1 takes any frame.
        own_share: 0..1.
        options: of the swap.

    Raises:
        ConfigError: no clip shows a face in two frames.
    """

    def __init__(
        self, snapshot: Snapshot, split: str, size_px: int, seed: int,
        num_candidates: int = 16, own_share: float = 0.0, options: SwapOptions | None = None,
    ) -> None:  # fmt: skip
        self._snapshot, self._size_px, self._seed = snapshot, size_px, seed
        self._num_candidates, self._own_share, self._options = num_candidates, own_share, options or SwapOptions()
        self._faces = FaceFrames(snapshot, snapshot.clips(split))
        if not self._faces.clips:
            number = snapshot.body.number
            raise ConfigError(f"snapshot {number}: no clip of split {split!r} shows a face in two frames")
        lengths = [len(frames) for frames in self._faces.frames]
        self._ends, self._turns = np.cumsum(lengths), np.concatenate(self._faces.turns)
        # Shared memory: workers that live on (persistent_workers) see the epoch that the main process sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._faces.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        chosen = self.choose(index)
        faces = [self._face(*target) for _, target in chosen]
        sources = [self._snapshot.frame(self._faces.clips[clip], frame) for (clip, frame), _ in chosen]
        pictures = {
            "source": sources,
            "target": [face.image for face in faces],
            "swapped": [swap_mouth(one, other, self._options) for one, other in (faces, faces[::-1])],
        }
        item = {name: torch.stack([image_of(image, self._size_px) for image in two]) for name, two in pictures.items()}
        return item | {"mouth": torch.stack([self._mouth(face) for face in faces])}

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; running workers follow."""
        self._epoch.fill_(epoch)

    def clip(self, number: int) -> ClipRef:
        """The clip with that number among those that show a face."""
        return self._faces.clips[number]

    def choose(self, index: int) -> tuple[tuple[Frame, Frame], tuple[Frame, Frame]]:
        """Of A and of B: the number of the clip and the frame of the source, and those of the target.

        Source and target differ; A and B are of different clips, if there are two, but for `own_share` of the choices.
        """
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        target = int(rng.integers(len(self._faces.frames[index])))
        partner, theirs = self._partner(index, target, rng)
        return self._pair(index, target, rng), self._pair(partner, theirs, rng)

    def _partner(self, index: int, target: int, rng: np.random.Generator) -> Frame:
        """Number of a clip and place among its frames with a face."""
        end, total = int(self._ends[index]), int(self._ends[-1])
        start = end - len(self._faces.frames[index])
        if len(self) == 1 or (self._own_share and rng.random() < self._own_share):
            return index, int((target + rng.integers(1, end - start)) % (end - start))
        candidates = rng.integers(total - (end - start), size=self._num_candidates)
        candidates[candidates >= start] += end - start
        return self._place(self._nearest(candidates, self._turns[start + target]))

    def _nearest(self, candidates: NDArray[np.int64], turn: NDArray[np.float32]) -> int:
        distances = np.square(self._turns[candidates] - turn).sum(axis=1)
        return int(candidates[distances.argmin()])

    def _place(self, number: int) -> Frame:
        """Clip and place within it of a frame counted through all clips."""
        clip = int(np.searchsorted(self._ends, number, side="right"))
        return clip, number - int(self._ends[clip]) + len(self._faces.frames[clip])

    def _pair(self, clip: int, target: int, rng: np.random.Generator) -> tuple[Frame, Frame]:
        """Another frame of the clip as source, and the target."""
        frames = self._faces.frames[clip]
        source = (target + int(rng.integers(1, len(frames)))) % len(frames)
        return (clip, int(frames[source])), (clip, int(frames[target]))

    def _mouth(self, face: Face) -> Tensor:
        mask = torch.from_numpy(mouth_mask(face.points, len(face.image), MOUTH_MARGIN_PX))
        return functional.interpolate(mask[None, None], (self._size_px, self._size_px), mode="area")[0]

    def _face(self, clip: int, frame: int) -> Face:
        place = self._faces.clips[clip]
        points: dict[str, Any] = self._snapshot.feature(place, "landmarks", ["landmarks"])
        return Face(self._snapshot.frame(place, frame), points["landmarks"][frame])
