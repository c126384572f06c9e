"""SwapPairs: two people, two frames of each, and one frame of each with the mouth of the other."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from models.edtalk.data.face_frames import FaceFrames, image_of
from models.edtalk.data.mouth_swap import Face, SwapOptions, mouth_mask, swap_mouth
from storage.errors import ConfigError
from storage.snapshot import ClipRef, Snapshot

Frame = tuple[int, int]
# Of a 256-px image.
MOUTH_MARGIN_PX = 12.0


@dataclass(frozen=True, slots=True)
class PartnerChoice:
    """How the second person of a pair is chosen.

    Attributes:
        num_candidates: frames drawn from all other clips, of which the one whose head is turned most like the first
            person's is taken: a mouth seen from the side does not fit a face seen from the front. 1 takes any frame.
        own_share: 0..1, share of the choices in which the partner is another frame of the same clip.
    """

    num_candidates: int = 16
    own_share: float = 0.0


class SwapPairs(Dataset[dict[str, Tensor]]):
    """One item per clip that shows a face in two frames or more.

    The clip is person A, its partner (see PartnerChoice) person B. An item holds, for A and B in this order,
    [2, 3, S, S] float32 -1..1 each,

        reference   a frame of the clip
        target      another frame of the clip
        swapped     the target with the mouth of the other person's target

    and [2, 1, S, S] float32 0..1

        mouth       share of each pixel of the target that is mouth: lips and MOUTH_MARGIN_PX around them

    The choice depends on (seed, epoch, index) only.

    Args:
        snapshot: with the feature landmarks; heads are compared by face3d where it has that, else by landmarks.
        split: 'train', 'val' or 'test'.
        size_px: S; mouths are swapped at the stored size.
        seed: seed of the choice.
        partners: how partners are chosen.
        options: how mouths are set in.

    Raises:
        ConfigError: no clip shows a face in two frames.
    """

    def __init__(
        self, snapshot: Snapshot, split: str, size_px: int, seed: int, partners: PartnerChoice | None = None,
        options: SwapOptions | None = None,
    ) -> None:  # fmt: skip
        self._snapshot, self._size_px, self._seed = snapshot, size_px, seed
        self._partners, self._options = partners or PartnerChoice(), options or SwapOptions()
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
        images = {
            "reference": [self._snapshot.frame(self.clip(number), frame) for (number, frame), _ in chosen],
            "target": [face.image for face in faces],
            "swapped": [swap_mouth(one, other, self._options) for one, other in (faces, faces[::-1])],
        }
        masks = torch.stack(
            [torch.from_numpy(mouth_mask(face.points, len(face.image), MOUTH_MARGIN_PX))[None] for face in faces]
        )
        item = {name: torch.stack([image_of(image, self._size_px) for image in two]) for name, two in images.items()}
        return item | {"mouth": functional.interpolate(masks, (self._size_px, self._size_px), mode="area")}

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; running workers follow."""
        self._epoch.fill_(epoch)

    def clip(self, number: int) -> ClipRef:
        """The clip with that number among those that show a face."""
        return self._faces.clips[number]

    def choose(self, index: int) -> tuple[tuple[Frame, Frame], tuple[Frame, Frame]]:
        """For A and for B: (number of the clip, frame) of the reference and of the target.

        Reference and target differ; A and B are of different clips, if there are two, but for `own_share` of the
        choices.
        """
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        target = int(rng.integers(len(self._faces.frames[index])))
        partner, theirs = self._partner(index, target, rng)
        return self._pair(index, target, rng), self._pair(partner, theirs, rng)

    def _partner(self, index: int, target: int, rng: np.random.Generator) -> Frame:
        """Number of a clip and place among its frames with a face."""
        end, total = int(self._ends[index]), int(self._ends[-1])
        start, own_share = end - len(self._faces.frames[index]), self._partners.own_share
        if len(self) == 1 or (own_share and rng.random() < own_share):
            return index, int((target + rng.integers(1, end - start)) % (end - start))
        # frames are numbered through all clips; those of the clip itself are left out
        candidates = rng.integers(total - (end - start), size=self._partners.num_candidates)
        candidates[candidates >= start] += end - start
        distances = np.square(self._turns[candidates] - self._turns[start + target]).sum(axis=1)
        nearest = int(candidates[distances.argmin()])
        clip = int(np.searchsorted(self._ends, nearest, side="right"))
        return clip, nearest - int(self._ends[clip]) + len(self._faces.frames[clip])

    def _pair(self, clip: int, target: int, rng: np.random.Generator) -> tuple[Frame, Frame]:
        """Another frame of the clip as reference, and the target."""
        frames = self._faces.frames[clip]
        reference = (target + int(rng.integers(1, len(frames)))) % len(frames)
        return (clip, int(frames[reference])), (clip, int(frames[target]))

    def _face(self, number: int, frame: int) -> Face:
        clip = self.clip(number)
        points = self._snapshot.feature(clip, "landmarks", ["landmarks"])["landmarks"]
        return Face(self._snapshot.frame(clip, frame), points[frame])
