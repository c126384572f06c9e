"""Portrait: the square around the one face of a picture or a video, cut as training clips are.

Faces are found by the tracker and cut by the resampling of tasks/cut.py, and framed such that they are as large as in
its clips (tasks/portrait/framing.py). What cannot be used ends in one line.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.catalog import ClipRule
from storage.errors import PreflightError, Rejected
from storage.timelaw import FPS
from tasks.faces.backend import FaceBackend
from tasks.faces.track import FaceTracker
from tasks.geometry import DEFAULT_MARGIN, face_box, union
from tasks.media.container import DEFAULT_LIMITS
from tasks.media.encode import rgb_to_yuv420
from tasks.media.frame_buffer import BLOCK_FRAMES, FrameBuffer
from tasks.media.resample import CropResizer
from tasks.media.video import MediaInfo, SlotFrame, YuvColor, iter_slots, probe
from tasks.portrait.framing import shot_square, still_square
from tasks.windows import Window, WindowAssembler

Box = tuple[int, int, int]
Picture = NDArray[np.uint8]

_SHOTS = ClipRule(length_s="whole", min_tail_s=1 / FPS, max_s=DEFAULT_LIMITS.max_seconds)
_PLAIN = YuvColor(is_full_range=True)
_BUFFER_BYTES = 256 << 20
MIN_SIDE_PX = 16
HD_ROWS = 720


@dataclass(frozen=True, slots=True)
class Framing:
    """How a face is framed.

    Attributes:
        margin: growth on each side of the box around a clip's faces, that of the training data (0.1: 1.2 times as
            large).
        takes_largest: of several faces, take the one that is largest for longest; otherwise they are refused.
        is_cropped: the picture is such a square already: no face is looked for.
        max_side_px: pictures (not videos) with a longer side are reduced to it.
    """

    margin: float = DEFAULT_MARGIN
    takes_largest: bool = False
    is_cropped: bool = False
    max_side_px: int = 1920


@dataclass(frozen=True, slots=True)
class Shot:
    """Frames first .. last - 1, and their square (x0, y0, side) px; it may reach outside the picture."""

    first: int
    last: int
    box: Box


@dataclass(frozen=True, slots=True)
class Portrait:
    """A picture or video and where its face is.

    Attributes:
        path: of the file.
        shots: without gaps, from frame 0 on; one of a single frame for a picture.
        shape: (height, width) px, upright.
        picture: uint8 [H, W, 3] RGB; None for a video.
        info: of a video.
    """

    path: Path
    shots: tuple[Shot, ...]
    shape: tuple[int, int]
    picture: Picture | None = None
    info: MediaInfo | None = None

    @property
    def num_frames(self) -> int:
        """Frames at 25 per second; 1 for a picture."""
        return self.shots[-1].last


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame.

    Attributes:
        crop: uint8 [S, S, 3] RGB, its square at the model's size.
        box: that square in it.
        whole: uint8 [H, W, 3] RGB, the frame as it is; None when not asked for.
    """

    crop: Picture
    box: Box
    whole: Picture | None


def find_portrait(path: Path, backend: Callable[[], FaceBackend], framing: Framing) -> Portrait:
    """Finds the face.

    Args:
        path: a picture in a format that OpenCV knows, or a video.
        backend: gives that of the training data; not called when no face is to be looked for.
        framing: see there.

    Raises:
        PreflightError: the file is missing or cannot be read, shows no face, or several.
    """
    with readable(path):
        if is_picture(path):
            picture = read_picture(path, framing.max_side_px)
            return _of_picture(path, picture, backend, framing)
        return _of_video(path, probe(path), backend, framing)


def crops(portrait: Portrait, size_px: int) -> Iterator[Picture]:
    """The square of every frame, uint8 [size_px, size_px, 3] RGB, antialiased and padded with black.

    Raises:
        PreflightError: the video cannot be read to its end.
    """
    if portrait.picture is not None:
        yield _crop_picture(portrait.picture, portrait.shots[0].box, size_px)
        return
    cropper = _Cropper(portrait, size_px)
    for index, frame in enumerate(_slots(portrait)):
        yield cropper.crop(index, frame)


def frames(
    portrait: Portrait, size_px: int, order: Sequence[int], scratch: Path, has_whole: bool
) -> Iterator[Shown]:  # fmt: skip
    """Frames with their squares, in any order; read once where it never goes back.

    Args:
        portrait: see `find_portrait`.
        size_px: side of the squares.
        order: numbers of frames.
        scratch: folder for the frames that are needed again and do not fit into memory.
        has_whole: whether the frames themselves are needed, too.

    Raises:
        PreflightError: the video cannot be read.
    """
    if portrait.picture is not None:
        box = portrait.shots[0].box
        crop = _crop_picture(portrait.picture, box, size_px)
        shown = Shown(crop, box, portrait.picture if has_whole else None)
        yield from (shown for _ in order)
        return
    cropper = _Cropper(portrait, size_px)
    for index, frame in _in_order(portrait, order, scratch):
        yield Shown(cropper.crop(index, frame), cropper.box(index), cropper.whole(frame) if has_whole else None)


def is_picture(path: Path) -> bool:
    """Whether the file begins as a still picture does.

    Raises:
        OSError: it is missing or cannot be read.
    """
    with path.open("rb"):
        pass
    return cv2.haveImageReader(str(path))


def is_video(path: Path) -> bool:
    """Whether a file that drives something is neither a picture nor a .npy file of codes.

    Raises:
        PreflightError: it is missing or cannot be read.
    """
    with readable(path):
        return path.suffix != ".npy" and not is_picture(path)


def read_picture(path: Path, max_side_px: int) -> Picture:
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
        raise PreflightError(f"{path}: damaged, too small, or not a picture that can be read; use a PNG or JPEG file")
    rgb = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    height, width = rgb.shape[:2]
    scale = max_side_px / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return rgb  # pyright: ignore[reportReturnType]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what is wrong with a file into one line.

    Raises:
        PreflightError: instead of Rejected and OSError.
    """
    try:
        yield
    except Rejected as rejection:
        raise PreflightError(rejection.detail) from None
    except OSError as error:
        raise PreflightError(f"{path}: cannot be read ({error.strerror or error})") from None


# ---- where the face is


def _of_picture(path: Path, picture: Picture, backend: Callable[[], FaceBackend], framing: Framing) -> Portrait:
    shape = picture.shape[:2]
    if framing.is_cropped:
        return Portrait(path, (Shot(0, 1, _whole_square(shape)),), shape, picture)
    # The luma that a video of it would have: in full range some faces get landmarks three pixels aside.
    luma = rgb_to_yuv420(picture, is_bt709=shape[0] >= HD_ROWS)[0]
    tracking = _Tracking(backend())
    windows = [*tracking.push([luma] * BLOCK_FRAMES), *tracking.finish()]
    box = _shot(path, windows[0], framing, is_video=False).box
    return Portrait(path, (Shot(0, 1, box),), shape, picture)


def _of_video(path: Path, info: MediaInfo, backend: Callable[[], FaceBackend], framing: Framing) -> Portrait:
    shape, slots = (info.height_px, info.width_px), iter_slots(path, info=info)
    if framing.is_cropped:
        shots = (Shot(0, sum(1 for _ in slots), _whole_square(shape)),)
    else:
        tracking, windows = _Tracking(backend()), list[Window]()
        while block := [frame.y.copy() for frame in islice(slots, BLOCK_FRAMES)]:
            windows += tracking.push(block)
        windows += tracking.finish()
        shots = tuple(_shot(path, window, framing, is_video=True) for window in windows)
    return Portrait(path, shots, shape, None, info)


class _Tracking:
    """Blocks of gray pictures to shots with their speaker, as in the cut of training clips."""

    def __init__(self, backend: FaceBackend) -> None:
        self._tracker, self._assembler = FaceTracker(backend), WindowAssembler(_SHOTS)

    def push(self, grays: Sequence[NDArray[np.uint8]]) -> Iterator[Window]:
        """Takes the next pictures; yields the shots that end in them."""
        faces = self._tracker.push(grays)
        yield from self._assembler.push(faces, np.zeros(len(grays), bool), self._tracker.num_pending)

    def finish(self) -> Iterator[Window]:
        """The last shot."""
        yield from self._assembler.finish()


def _shot(path: Path, window: Window, framing: Framing, is_video: bool) -> Shot:
    first, last = window.start, window.start + len(window)
    where = f" from {first / FPS:.2f} to {last / FPS:.2f} s" if is_video else ""
    if window.track_id < 0:
        raise PreflightError(f"{path}: no face found{where}; it must be turned to the camera, and not too small")
    if (window.num_faces > 1).mean() > 0.5 and not framing.takes_largest:
        found = f"{int(window.num_faces.max())} faces{where}"
        raise PreflightError(f"{path}: {found}; crop it to one of them, or use --largest-face")
    boxes = face_box(window.landmarks)
    square = shot_square(boxes, framing.margin) if is_video else still_square(union(boxes), framing.margin)
    return Shot(first, last, square)


def _whole_square(shape: Sequence[int]) -> Box:
    """The square around a picture of (height, width); nothing is squeezed."""
    side = max(shape)
    return (shape[1] - side) // 2, (shape[0] - side) // 2, side


# ---- frames


def _crop_picture(picture: Picture, box: Box, size_px: int) -> Picture:
    """The crop of one picture, channel by channel, each as the luma of a grey video: training's own resampling."""
    height, width = picture.shape[:2]
    resizer = CropResizer(box, size_px, (height, width), _PLAIN)
    grey = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return np.dstack([resizer(np.ascontiguousarray(picture[..., i]), grey, grey)[..., 0] for i in range(3)])


class _Cropper:
    """Squares of the frames of a video, and the frames as RGB."""

    def __init__(self, portrait: Portrait, size_px: int) -> None:
        assert portrait.info is not None
        self._shots, self._shape, color = portrait.shots, portrait.shape, portrait.info.color
        self._firsts = [shot.first for shot in portrait.shots]
        self._resizers = [CropResizer(shot.box, size_px, portrait.shape, color) for shot in portrait.shots]
        # a crop that holds all of the picture at its own size
        self._whole = CropResizer((0, 0, max(portrait.shape)), max(portrait.shape), portrait.shape, color)

    def box(self, index: int) -> Box:
        return self._shots[self._number(index)].box

    def crop(self, index: int, frame: SlotFrame) -> Picture:
        return self._resizers[self._number(index)](frame.y, frame.u, frame.v)

    def whole(self, frame: SlotFrame) -> Picture:
        height, width = self._shape
        return np.ascontiguousarray(self._whole(frame.y, frame.u, frame.v)[:height, :width])

    def _number(self, index: int) -> int:
        return int(np.searchsorted(self._firsts, index, side="right")) - 1


def _slots(portrait: Portrait) -> Iterator[SlotFrame]:
    with readable(portrait.path):
        yield from iter_slots(portrait.path, info=portrait.info)


def _in_order(portrait: Portrait, order: Sequence[int], scratch: Path) -> Iterator[tuple[int, SlotFrame]]:
    """(number, frame) for each entry of `order`."""
    if not all(0 <= step <= 1 for step in np.diff(order)):
        yield from _shuffled(portrait, order, scratch)
        return
    wanted = iter(order)
    index = next(wanted, None)
    for number, frame in enumerate(_slots(portrait)):
        while index == number:
            yield number, frame
            index = next(wanted, None)
        if index is None:
            return


def _shuffled(portrait: Portrait, order: Sequence[int], scratch: Path) -> Iterator[tuple[int, SlotFrame]]:
    """The same for an order that goes back: frames wait in memory, and beyond that in an unnamed file."""
    assert portrait.info is not None
    with closing(FrameBuffer(*portrait.shape, scratch, _BUFFER_BYTES)) as buffer:
        for frame in _slots(portrait):
            buffer.append(frame.y, frame.u, frame.v)
            if len(buffer) > max(order):
                break
        for index in order:
            planes = buffer.planes(index)
            yield index, SlotFrame(index, planes.y, planes.u, planes.v, portrait.info.color, False, False)
