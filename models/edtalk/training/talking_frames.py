"""TalkingFrames: windows of codes with five frames to render from them, a reference image, and SyncNet's mel window."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.data.clip_dataset import Item
from models.edtalk.data.code_windows import CodeWindows
from models.edtalk.data.face_frames import image_of
from models.edtalk.networks.syncnet import NUM_FRAMES
from models.edtalk.training.sync_loss import WINDOW_LEAD_FRAMES
from storage.snapshot import ClipRef, Snapshot

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


class TalkingFrames(Dataset[Item]):
    """The items of CodeWindows, with five consecutive frames r .. r + 4 of the window:

        at          int, index in the window of frame r
        frames      [5, 3, S, S] float32 -1..1
        reference   [3, S, S] float32 -1..1, a random frame of the clip with a face
        boxes       [5, 4] float32, faces of the five frames: left, top, right, bottom as shares of the side
        has_face    bool, whether all five have a box; boxes are the whole image otherwise
        sync_mel    [1, 80, 16] float32, the mel window that begins with frame r

    All random choices depend on (seed, epoch, index) only.

    Args:
        windows: windows of 5 frames or more, from stretches of 5 frames or more.
        snapshot: the snapshot of the windows, with the feature bbox.
        size_px: S.
    """

    def __init__(self, windows: CodeWindows, snapshot: Snapshot, size_px: int) -> None:
        self._windows, self._snapshot, self._size_px = windows, snapshot, size_px

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Item:
        item, clip, rng = self._windows[index], self._windows.clip(index), self._windows.choices(index, purpose=1)
        at = int(rng.integers(int(item["inside"].sum()) - NUM_FRAMES + 1))
        reference, start = int(rng.choice(self._windows.frames(index))), item["first"] + at
        frames = [self._snapshot.frame(clip, frame) for frame in (reference, *range(start, start + NUM_FRAMES))]
        boxes, has_face = self._boxes(clip, start, side_px=len(frames[0]))
        images = torch.stack([image_of(frame, self._size_px) for frame in frames])
        return item | {
            "at": at,
            "frames": images[1:],
            "reference": images[0],
            "boxes": boxes,
            "has_face": has_face,
            "sync_mel": item["mel"][at + WINDOW_LEAD_FRAMES],
        }

    def set_epoch(self, epoch: int) -> None:
        """Changes the random choices; call it before a loader is iterated. Running workers follow."""
        self._windows.set_epoch(epoch)

    def _boxes(self, clip: ClipRef, first: int, side_px: int) -> tuple[Tensor, bool]:
        """`boxes` and `has_face` of the five frames that begin with `first`."""
        boxes = self._snapshot.feature(clip, "bbox", ["bbox"])["bbox"][first : first + NUM_FRAMES]
        if not np.isfinite(boxes).all():
            return torch.tensor(WHOLE_IMAGE).expand(NUM_FRAMES, 4), False
        # pixel centres are whole numbers: the outer edges lie half a pixel further out
        edges = boxes + np.array([-0.5, -0.5, 0.5, 0.5], np.float32)
        return torch.from_numpy(edges / np.float32(side_px)), True
