"""Portrait: the square around the one face of an image or a video, cut as training clips are.

Faces are found by the tracker and cut by the resampling of tasks/cut.py, and framed such that they are as large as in
its clips (tasks/portrait/framing.py). What cannot be used is reported in one line.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.catalog import ClipRule, CropRule
from storage.errors import PreflightError, Rejected
from storage.timelaw import FPS
from tasks.faces.backend import FaceBackend
from tasks.faces.track import FaceTracker
from tasks.geometry import face_box, union
from tasks.media.container import DEFAULT_LIMITS
from tasks.media.encode import rgb_to_yuv420
from tasks.media.frame_buffer import BLOCK_FRAMES, FrameBuffer
from tasks.media.resample import CropResizer
from tasks.media.video import MediaInfo, SlotFrame, YuvColor, iter_slots, probe
from tasks.portrait.framing import Square, shot_square, still_square
from tasks.windows import Window, WindowAssembler

Image = NDArray[np.uint8]

_SHOTS = ClipRule(length_s="whole", min_tail_s=1 / FPS, max_s=DEFAULT_LIMITS.max_seconds)
_PLAIN = YuvColor(is_full_range=True)
_BUFFER_BYTES = 256 << 20
MIN_SIDE_PX = 16
HD_ROWS = 720


@dataclass(frozen=True, slots=True)
class Framing:
    """How a face is framed.

    Attributes:
        crop: rule of the model's training data; its margin counts, the size is the model's.
        largest_face: of several faces, take the one that is largest for longest; otherwise they are refused.
        cropped: the image or video is such a square already: no face is looked for.
        max_side_px: images (not videos) with a longer side are reduced to it.
    """

    crop: CropRule = field(default_factory=CropRule)
    largest_face: bool = False
    cropped: bool = False
    max_side_px: int = 1920


@dataclass(frozen=True, slots=True)
class Shot:
    """Frames first .. last - 1, and their square (x0, y0, side) px; it may reach outside the frame."""

    first: int
    last: int
    box: Square


@dataclass(frozen=True, slots=True)
class Portrait:
    """An image or video and where its face is.

    Attributes:
        path: of the file.
        shots: without gaps, from frame 0 on; one of a single frame for an image.
        shape: (height, width) px, upright.
        image: uint8 [H, W, 3] RGB; None for a video.
        info: of a video.
    """

    path: Path
    shots: tuple[Shot, ...]
    shape: tuple[int, int]
    image: Image | None = None
    info: MediaInfo | None = None

    @property
    def num_frames(self) -> int:
        """Frames at 25 per second; 1 for an image."""
        return self.shots[-1].last


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame.

    Attributes:
        crop: uint8 [S, S, 3] RGB, its square at the model's size.
        box: that square in it.
        whole: uint8 [H, W, 3] RGB, the whole frame; None when not asked for.
    """

    crop: Image
    box: Square
    whole: Image | None


def find_portrait(path: Path, backend: Callable[[], FaceBackend], framing: Framing) -> Portrait:
    """Finds the face.

    Args:
        path: an image in a format that OpenCV knows, or a video.
        backend: returns that of the training data; not called when no face is to be looked for.
        framing: see Framing.

    Raises:
        PreflightError: the file is missing or cannot be read, shows no face, or several.
    """
    with readable(path):
        if is_image(path):
            image = read_image(path, framing.max_side_px)
            shape = image.shape[:2]
            if framing.cropped:
                return Portrait(path, (Shot(0, 1, _whole_square(shape)),), shape, image)
            # The luma that a video of it would have: in full range some faces get landmarks three pixels aside.
            luma = rgb_to_yuv420(image, is_bt709=shape[0] >= HD_ROWS)[0]
            window = next(track_shots([[luma] * BLOCK_FRAMES], backend()))
            return Portrait(path, (Shot(0, 1, _shot(path, window, framing, is_video=False).box),), shape, image)
        info = probe(path)
        shape, slots = (info.height_px, info.width_px), iter_slots(path, info=info)
        if framing.cropped:
            return Portrait(path, (Shot(0, sum(1 for _ in slots), _whole_square(shape)),), shape, None, info)
        blocks = iter(lambda: [frame.y.copy() for frame in islice(slots, BLOCK_FRAMES)], [])
        windows = list(track_shots(blocks, backend()))
        return Portrait(path, tuple(_shot(path, one, framing, is_video=True) for one in windows), shape, None, info)


def track_shots(blocks: Iterable[Sequence[NDArray[np.uint8]]], backend: FaceBackend) -> Iterator[Window]:
    """Shots with their speaker, found in blocks of gray frames as in the cut of training clips; each when it ends."""
    tracker, assembler = FaceTracker(backend), WindowAssembler(_SHOTS)
    for grays in blocks:
        yield from assembler.push(tracker.push(grays), np.zeros(len(grays), bool), tracker.num_pending)
    yield from assembler.finish()


def crops(portrait: Portrait, size_px: int) -> Iterator[Image]:
    """The square of every frame, uint8 [size_px, size_px, 3] RGB, antialiased and padded with black.

    Raises:
        PreflightError: the video cannot be read to its end.
    """
    if portrait.image is not None:
        yield crop_image(portrait.image, portrait.shots[0].box, size_px)
        return
    cropper = FrameCropper(portrait, size_px)
    for index, frame in enumerate(_slots(portrait)):
        yield cropper.crop(index, frame)


def frames(portrait: Portrait, size_px: int, order: Sequence[int], scratch: Path, has_whole: bool) -> Iterator[Shown]:
    """Frames with their squares, in any order; read once where it never goes back.

    Args:
        portrait: see `find_portrait`.
        size_px: side of the squares.
        order: numbers of frames.
        scratch: folder for the frames that are needed again and do not fit into memory.
        has_whole: whether the whole frames are needed, too.

    Raises:
        PreflightError: the video cannot be read.
    """
    if portrait.image is not None:
        box = portrait.shots[0].box
        shown = Shown(crop_image(portrait.image, box, size_px), box, portrait.image if has_whole else None)
        yield from (shown for _ in order)
        return
    cropper = FrameCropper(portrait, size_px)
    read = _in_order if all(0 <= step <= 1 for step in np.diff(order)) else _shuffled
    for index, frame in read(portrait, order, scratch):
        whole = cropper.whole(frame) if has_whole else None
        yield Shown(cropper.crop(index, frame), cropper.shot(index).box, whole)


def is_image(path: Path) -> bool:
    """Whether the file begins as an image does.

    Raises:
        OSError: it is missing or cannot be read.
    """
    with path.open("rb"):
        pass
    return cv2.haveImageReader(str(path))


def read_image(path: Path, max_side_px: int) -> Image:
    """RGB uint8 [H, W, 3], upright; reduced when its longer side is above `max_side_px`.

    Raises:
        PreflightError: it cannot be decoded.
        OSError: it is missing or cannot be read.
    """
    try:
        found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        found = None
    if found is None or min(found.shape[:2]) < MIN_SIDE_PX:
        raise PreflightError(f"{path}: damaged, too small, or not an image that can be read; use a PNG or JPEG file")
    rgb = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    height, width = rgb.shape[:2]
    scale = max_side_px / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return rgb  # pyright: ignore[reportReturnType]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns errors of reading a file into one line.

    Raises:
        PreflightError: instead of Rejected and OSError.
    """
    try:
        yield
    except Rejected as rejection:
        raise PreflightError(rejection.detail) from None
    except OSError as error:
        raise PreflightError(f"{path}: cannot be read ({error.strerror or error})") from None


def _shot(path: Path, window: Window, framing: Framing, is_video: bool) -> Shot:
    first, last = window.start, window.start + len(window)
    where = f" from {first / FPS:.2f} to {last / FPS:.2f} s" if is_video else ""
    if window.track_id < 0:
        raise PreflightError(f"{path}: no face found{where}; it must be turned to the camera, and not too small")
    if (window.num_faces > 1).mean() > 0.5 and not framing.largest_face:
        found = f"{int(window.num_faces.max())} faces{where}"
        raise PreflightError(f"{path}: {found}; crop it to one of them, or use --largest-face")
    boxes = face_box(window.landmarks)
    return Shot(first, last, shot_square(boxes, framing.crop) if is_video else still_square(union(boxes), framing.crop))


def _whole_square(shape: Sequence[int]) -> Square:
    """The square around a frame of (height, width); nothing is squeezed."""
    side = max(shape)
    return (shape[1] - side) // 2, (shape[0] - side) // 2, side


# ---- frames


def crop_image(image: Image, box: Square, size_px: int) -> Image:
    """The crop of one image, channel by channel, each as the luma of a grey video: training's own resampling."""
    height, width = image.shape[:2]
    resizer = CropResizer(box, size_px, (height, width), _PLAIN)
    grey = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return np.dstack([resizer(np.ascontiguousarray(image[..., i]), grey, grey)[..., 0] for i in range(3)])


class FrameCropper:
    """Squares of the frames of a video, and the frames as RGB; for one thread.

    Args:
        portrait: of a video.
        size_px: side of the squares.
    """

    def __init__(self, portrait: Portrait, size_px: int) -> None:
        assert portrait.info is not None
        self._shots, self._shape, color = portrait.shots, portrait.shape, portrait.info.color
        self._firsts = [shot.first for shot in portrait.shots]
        self._resizers = {shot: CropResizer(shot.box, size_px, portrait.shape, color) for shot in portrait.shots}
        # a crop that holds all of the frame at its own size
        self._whole = CropResizer((0, 0, max(portrait.shape)), max(portrait.shape), portrait.shape, color)

    def shot(self, index: int) -> Shot:
        """The shot that frame `index` belongs to."""
        return self._shots[int(np.searchsorted(self._firsts, index, side="right")) - 1]

    def crop(self, index: int, frame: SlotFrame) -> Image:
        """Its square, uint8 [size_px, size_px, 3]."""
        return self._resizers[self.shot(index)](frame.y, frame.u, frame.v)

    def whole(self, frame: SlotFrame) -> Image:
        """The whole frame, uint8 [H, W, 3]."""
        height, width = self._shape
        return np.ascontiguousarray(self._whole(frame.y, frame.u, frame.v)[:height, :width])


def _slots(portrait: Portrait) -> Iterator[SlotFrame]:
    with readable(portrait.path):
        yield from iter_slots(portrait.path, info=portrait.info)


def _in_order(portrait: Portrait, order: Sequence[int], scratch: Path) -> Iterator[tuple[int, SlotFrame]]:
    """(number, frame) for each entry of an `order` that never goes back."""
    wanted = iter(order)
    index = next(wanted, None)
    for number, frame in enumerate(_slots(portrait)):
        while index == number:
            yield number, frame
            index = next(wanted, None)
        if index is None:
            return


def _shuffled(portrait: Portrait, order: Sequence[int], scratch: Path) -> Iterator[tuple[int, SlotFrame]]:
    """The same for any order: frames wait in memory, and beyond that in an unnamed file."""
    assert portrait.info is not None
    with closing(FrameBuffer(*portrait.shape, scratch, _BUFFER_BYTES)) as buffer:
        for frame in _slots(portrait):
            buffer.append(frame.y, frame.u, frame.v)
            if len(buffer) > max(order):
                break
        for index in order:
            planes = buffer.planes(index)
            yield index, SlotFrame(index, planes.y, planes.u, planes.v, portrait.info.color, False, False)
