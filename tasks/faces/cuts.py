"""Scene cuts from sparse gray samples: a jump of the image that does not come back within a few frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES_SHORT_SIDE = 64  # the shorter side of a frame is sampled at 64 to 127 places


@dataclass(frozen=True, slots=True)
class Cuts:
    """Cuts and flashes among the n frames of a block.

    Attributes:
        is_cut: bool [n], a scene cut lies before this frame.
        is_flash: bool [n], this frame differs from its neighbours, and the frame before it came back after it.
        is_pending: bool [n], the image changed in the block's last frames: whether by a flash or a cut, only the next
            block decides. Always a tail of the block.
    """

    is_cut: NDArray[np.bool_]
    is_flash: NDArray[np.bool_]
    is_pending: NDArray[np.bool_]


class CutFinder:
    """Finds cuts in consecutive frames; state carries over from block to block.

    A cut is a frame whose mean absolute gray difference to the frame before exceeds `threshold`, unless one of the next
    `max_flash_frames` frames shows the earlier image again (a flash). Where a block ends before those frames are
    known, the question stays open: the rest of the block is `is_pending`, and if it was a cut, `is_cut` is set on the
    first frame of the next block. So a cut is never reported early or twice, at most `max_flash_frames` late, and
    frames further than that from a block edge get the same answer however the video is split into blocks.
    """

    def __init__(self, threshold: float, max_flash_frames: int) -> None:
        self._threshold = threshold
        self._max_flash_frames = max_flash_frames
        self._previous: NDArray[np.int16] | None = None
        self._before: NDArray[np.int16] | None = None  # the samples before an open question
        self._num_waited = 0  # frames pending since then

    @property
    def num_pending(self) -> int:
        """Frames at the end of all those pushed whose question is still open; a cut would lie before the first."""
        return 0 if self._before is None else self._num_waited

    def push(self, grays: Sequence[NDArray[np.uint8]]) -> Cuts:
        """Find the cuts among the next frames, each uint8 [H, W]."""
        num = len(grays)
        cuts = Cuts(np.zeros(num, bool), np.zeros(num, bool), np.zeros(num, bool))
        samples = []
        for gray in grays:  # every k-th pixel in both directions: a strided read, no filtering
            step = max(1, min(gray.shape) // SAMPLES_SHORT_SIDE)
            samples.append(gray[step // 2 :: step, step // 2 :: step].astype(np.int16))
        at = 0
        if self._before is not None and num:
            at = self._judge(self._before, samples, 0, self._num_waited, cuts)
        while at < num:
            previous = samples[at - 1] if at else self._previous
            if previous is None or not self._differ(previous, samples[at]):
                at += 1
            else:
                at = self._judge(previous, samples, at, 0, cuts)
        if num:
            self._previous = samples[-1]
        return cuts

    def _judge(
        self, before: NDArray[np.int16], samples: Sequence[NDArray[np.int16]], at: int, num_waited: int, cuts: Cuts
    ) -> int:
        """Decide what frame `at`, which does not continue `before`, is; returns the next frame to compare."""
        self._before = None
        last = at + self._max_flash_frames - num_waited  # the latest frame that may show `before` again
        for back in range(at, min(last + 1, len(samples))):
            if not self._differ(before, samples[back]):
                cuts.is_flash[at:back] = True
                return back + 1
        if last < len(samples):
            cuts.is_cut[at] = True
            return at + 1
        cuts.is_pending[at:] = True
        self._before, self._num_waited = before, num_waited + len(samples) - at
        return len(samples)

    def _differ(self, first: NDArray[np.int16], second: NDArray[np.int16]) -> bool:
        return first.shape != second.shape or float(np.abs(first - second).mean()) > self._threshold
