"""Frames of the clip in the making, copied out of the decoder into reused blocks; large ones wait on disk."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from storage.files import out_of_space

BLOCK_FRAMES = 25
MAX_RAM_BYTES = 768 << 20


@dataclass(frozen=True, slots=True)
class Planes:
    """One upright I420 frame: y [H, W], u and v [ceil(H/2), ceil(W/2)] uint8."""

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]


class FrameBuffer:
    """Numbered frames of one size: appended at the end, released from the start.

    The decoder's frames must not be held (it would allocate afresh for every file), so each is copied once into a block
    of 25. Blocks are reused; beyond `max_ram_bytes` the oldest are written to an unlinked file and read back.

    Args:
        height_px, width_px: size of the luma plane.
        scratch: folder for the file.
        max_ram_bytes: memory for blocks.
    """

    def __init__(self, height_px: int, width_px: int, scratch: Path, max_ram_bytes: int = MAX_RAM_BYTES) -> None:
        self._shape = (height_px, width_px)
        self._half = ((height_px + 1) // 2, (width_px + 1) // 2)
        self._frame_bytes = height_px * width_px + 2 * self._half[0] * self._half[1]
        self._max_blocks = max(2, max_ram_bytes // (self._frame_bytes * BLOCK_FRAMES))
        self._blocks: dict[int, NDArray[np.uint8]] = {}
        self._spilled: dict[int, int] = {}  # block -> its place in the file, counted in blocks
        self._places: list[int] = []  # places that are free again
        self._num_places = 0
        self._free: list[NDArray[np.uint8]] = []
        self._scratch = scratch
        self._file: IO[bytes] | None = None
        self._end = 0

    def __len__(self) -> int:
        """Number of the next frame."""
        return self._end

    def append(self, y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> Planes:
        """Copies one frame in and returns the copy, valid until its block is released or spilled.

        Raises:
            OutOfSpace: the file that holds older frames cannot grow.
        """
        block, row = divmod(self._end, BLOCK_FRAMES)
        if block in self._spilled:
            self._restore(block)
        elif block not in self._blocks:
            self._blocks[block] = self._fresh(min(self._blocks, default=0))
        self._end += 1
        planes = self._view(self._blocks[block][row])
        np.copyto(planes.y, y)
        np.copyto(planes.u, u)
        np.copyto(planes.v, v)
        return planes

    def planes(self, index: int) -> Planes:
        """Frame `index`; valid until the next call."""
        block, row = divmod(index, BLOCK_FRAMES)
        if block in self._spilled:
            self._restore(block)
        return self._view(self._blocks[block][row])

    def release_before(self, index: int) -> None:
        """Forgets all frames before `index` whose block holds none at or after it."""
        first = index // BLOCK_FRAMES
        for block in [block for block in self._blocks if block < first]:
            self._free.append(self._blocks.pop(block))
        for block in [block for block in self._spilled if block < first]:
            self._places.append(self._spilled.pop(block))

    def close(self) -> None:
        """Gives memory and disk back."""
        if self._file:
            self._file.close()
        self._blocks, self._free, self._spilled = {}, [], {}

    def _view(self, row: NDArray[np.uint8]) -> Planes:
        luma = self._shape[0] * self._shape[1]
        chroma = self._half[0] * self._half[1]
        return Planes(
            row[:luma].reshape(self._shape),
            row[luma : luma + chroma].reshape(self._half),
            row[luma + chroma :].reshape(self._half),
        )

    def _fresh(self, victim: int) -> NDArray[np.uint8]:
        """Memory for a block; `victim` makes room when all of it is in use."""
        if len(self._blocks) >= self._max_blocks:
            self._spill(victim)
        return self._free.pop() if self._free else np.empty((BLOCK_FRAMES, self._frame_bytes), dtype=np.uint8)

    def _spill(self, block: int) -> None:
        data = self._blocks.pop(block)
        with out_of_space(self._scratch):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - closed by close()
            if not self._places:
                # The file grows with the frames that wait at the same time, not with the length of the video.
                self._places.append(self._num_places)
                self._num_places += 1
            place = self._places.pop()
            self._file.seek(place * data.nbytes)
            self._file.write(data.data)
            self._file.flush()
        self._spilled[block] = place
        self._free.append(data)

    def _restore(self, block: int) -> None:
        assert self._file is not None
        # A clip is read in order once it is whole: no block before this one is needed again; else the last comes last.
        before = [other for other in self._blocks if other < block]
        target = self._fresh(before[0] if before else max(self._blocks, default=0))
        place = self._spilled.pop(block)
        self._places.append(place)
        self._file.seek(place * target.nbytes)
        if self._file.readinto(target.data) != target.nbytes:  # pyright: ignore[reportAttributeAccessIssue]
            raise OSError("scratch file of the frame buffer is shorter than what was written to it")
        self._blocks[block] = target
