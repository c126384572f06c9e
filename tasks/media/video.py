"""Video: read files as 25-fps I420 frames on the time axis of their container.

Start offsets, variable frame rate and rotation are honoured. A defect of the file itself is raised as
`Rejected`, a missing file or a failing disk as OSError.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from storage.errors import Reason, Rejected
from storage.timelaw import FPS
from tasks.media.container import (
    DEFAULT_LIMITS,
    VIDEO_FORMATS,
    MediaLimits,
    open_media,
    presentation_time,
    read_through,
    rejection_of,
    time_base,
)

TRUNCATION_TOLERANCE_S = 0.2

Matrix = Literal["bt601", "bt709", "bt2020"]
# Weights of red and blue in luma (ITU-R BT.601, BT.709, BT.2020).
LUMA_RED_BLUE: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
# ITU-T H.273 matrix codes; every other code, "unspecified" among them, is read as BT.601 like swscale does.
_MATRICES: dict[int, Matrix] = {1: "bt709", 7: "bt709", 9: "bt2020", 10: "bt2020"}
_PLAIN_FORMATS = frozenset({"yuv420p", "yuvj420p"})


@dataclass(frozen=True, slots=True)
class YuvColor:
    """Conversion of Y, U, V to R, G, B: the ITU matrix, and whether Y spans 0..255 instead of 16..235."""

    matrix: Matrix = "bt601"
    is_full_range: bool = False

    def gains(self) -> NDArray[np.float32]:
        """[5]: gain of Y, of V in red, of U and V in green, of U in blue."""
        red, blue = LUMA_RED_BLUE[self.matrix]
        luma, chroma = (1.0, 1.0) if self.is_full_range else (255 / 219, 255 / 224)
        v_red, u_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
        green = 1 - red - blue
        return np.array([luma, v_red, -u_blue * blue / green, -v_red * red / green, u_blue], np.float32)


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Description of a video file. Sizes are those of the upright frame, times are on the container's axis.

    Attributes:
        is_variable_rate: according to the headers (those of Matroska name one rate at most).
        container, codec, pixel_format: FFmpeg's names; the container is found by content, not by the file's suffix.
        rotation_deg: clockwise turn (0, 90, 180, 270) that made the frame upright; `is_mirrored` when flipped, too.
        declared_frames: frame count of the index, None when the container has none.
        duration_s: length of the video stream, or of the container where the stream has none; 0 when unknown.
        video_start_s, audio_start_s: time of the first frame and of the first audio packet.
        color: conversion of the planes of `iter_slots` to RGB.
    """

    container: str
    codec: str
    pixel_format: str
    width_px: int
    height_px: int
    rotation_deg: int
    is_mirrored: bool
    avg_fps: float
    is_variable_rate: bool
    duration_s: float
    declared_frames: int | None
    video_start_s: float
    has_audio: bool
    audio_codec: str | None
    audio_rate_hz: int | None
    audio_channels: int | None
    audio_start_s: float | None
    color: YuvColor


@dataclass(frozen=True, slots=True)
class SlotFrame:
    """One 25-fps slot: the frame shown at container time slot/25 s.

    Attributes:
        slot: consecutive from frame to frame, none missing; the first one need not be 0.
        y, u, v: upright uint8 planes [H, W], [ceil(H/2), ceil(W/2)] twice; valid only until the next iteration.
        color: their conversion to RGB.
        is_corrupt: the decoder flagged this frame, or frames that belong here could not be decoded.
        is_repeat: same frame as in the slot before.
    """

    slot: int
    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    color: YuvColor
    is_corrupt: bool
    is_repeat: bool


def probe(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Reads the headers and decodes one frame.

    Raises:
        Rejected: EMPTY, NOT_MEDIA, TRUNCATED, NO_VIDEO, TOO_LARGE, UNSUPPORTED_CODEC, CORRUPT_FRAMES, TIMEOUT or
            UNSAFE_PATH (not a regular file).
        OSError: the file is missing or cannot be read.
    """
    with _open_video(path, limits) as decoding:
        return decoding.describe()


def header_seconds(path: Path) -> float:
    """Length of a video in seconds as its header claims, 0.0 when it claims nothing; decodes no frame."""
    try:
        with open_media(path, VIDEO_FORMATS, DEFAULT_LIMITS) as container:
            stream = next(iter(container.streams.video), None)
            return _duration_s(container, stream) if stream is not None else 0.0
    except Rejected:
        return 0.0


def iter_slots(path: Path, limits: MediaLimits = DEFAULT_LIMITS, info: MediaInfo | None = None) -> Iterator[SlotFrame]:
    """Decodes the video once and yields its frames at 25 per second.

    Slot k shows input frame max{i : floor(25*pts_i + 1/2) <= k}, computed in exact integers: the selection and the
    count of FFmpeg's `fps=25` filter.

    Args:
        path: the file.
        limits: bounds.
        info: result of `probe` of the same file; probed here when None.

    Raises:
        Rejected: as `probe`; TRUNCATED after the last slot when the video ends earlier than its header declares.
        OSError: the file is missing or cannot be read.
    """
    info = info or probe(path, limits)
    with _open_video(path, limits) as decoding:
        planes = _PlaneReader(info, path)
        y = u = v = np.empty((0, 0), np.uint8)
        for slot, frame, is_corrupt, is_repeat in decoding.slots():
            if not is_repeat:
                y, u, v = planes.read(frame)
            yield SlotFrame(slot, y, u, v, info.color, is_corrupt, is_repeat)
        decoding.check_complete()


# ---- description -----------------------------------------------------------------------------------------------------


@contextmanager
def _open_video(path: Path, limits: MediaLimits) -> Iterator["_Decoding"]:
    """Opens the first moving video stream, its decoder set up, after a check of what the headers claim."""
    with open_media(path, VIDEO_FORMATS, limits) as container:
        streams = container.streams
        if len(streams) > limits.max_streams:
            raise Rejected(Reason.TOO_LARGE, f"{path}: {len(streams)} streams, the limit is {limits.max_streams}")
        moving = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
        if not moving:
            raise Rejected(Reason.NO_VIDEO, f"{path}: no video stream (a cover image is none)")
        stream = moving[0]
        if cast(object, stream.codec_context) is None:
            raise Rejected(Reason.UNSUPPORTED_CODEC, f"{path}: no decoder for its video")
        claims = (
            (stream.width * stream.height, limits.max_pixels, "pixels per frame"),
            (float(stream.average_rate or 0), limits.max_fps, "frames per second"),
            (stream.frames, limits.max_frames, "frames"),
            (max(_duration_s(container, stream), (container.duration or 0) / 1e6), limits.max_seconds, "seconds"),
        )
        for found, limit, unit in claims:
            if found > limit:
                raise Rejected(Reason.TOO_LARGE, f"{path}: {found:g} {unit}, the limit is {limit:g}")
        stream.thread_type = "NONE"
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        yield _Decoding(container, stream, path, limits)


def _start_s(stream: VideoStream | AudioStream) -> float:
    return float((stream.start_time or 0) * time_base(stream))


def _duration_s(container: InputContainer, stream: VideoStream) -> float:
    """Length of the video stream, else of the container, else 0."""
    end_s = _declared_end_s(stream)
    if end_s is not None:
        return max(0.0, end_s - _start_s(stream))
    return (container.duration or 0) / 1e6


def _declared_end_s(stream: VideoStream) -> float | None:
    """Declared container time of the end of the stream; Matroska has it in a tag HH:MM:SS.fraction."""
    if stream.frames and stream.container.format.name == "avi":
        return float(stream.frames * time_base(stream))  # FFmpeg guesses the duration anew when the index is missing
    if stream.duration:
        return _start_s(stream) + float(stream.duration * time_base(stream))
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].strip("\0").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None


# ---- decoding --------------------------------------------------------------------------------------------------------


class _Decoding:
    """Frames of one stream in presentation order, surviving packets that cannot be decoded.

    Attributes:
        container, stream, path, limits: the opened file.
        num_frames: frames so far.
        num_failed: packets that gave an error instead.
        error: the last such error.
        end_s: container time at which the last frame ends; set by the reader of the frames.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, path: Path, limits: MediaLimits) -> None:
        self.container, self.stream, self.path, self.limits = container, stream, path, limits
        self.num_frames = self.num_failed = 0
        self.error: FFmpegError | None = None
        self.end_s = self._packets_end_s = -math.inf

    def frames(self) -> Iterator[tuple[VideoFrame, bool]]:
        """Yields (frame, is_after_loss): whether packets before it were lost."""
        limits, num_failed = self.limits, 0
        deadline_s = time.monotonic() + limits.max_wall_s
        for packet in self._packets():
            try:
                frames = cast(list[VideoFrame], packet.decode())
            except FFmpegError as error:
                self._note(error)
                continue
            for frame in frames:
                self.num_frames += 1
                yield frame, self.num_failed > num_failed
                num_failed = self.num_failed
            if self.num_frames > limits.max_frames:
                raise Rejected(Reason.TOO_LARGE, f"{self.path}: more than {limits.max_frames} frames")
            if time.monotonic() > deadline_s:
                raise Rejected(Reason.TIMEOUT, f"{self.path}: decoding took longer than {limits.max_wall_s:g} s")

    def describe(self) -> MediaInfo:
        """The description of the file, for which the first frame is decoded."""
        container, stream, frame = self.container, self.stream, self.first_frame()
        audio = container.streams.audio[0] if container.streams.audio else None
        context = audio.codec_context if audio is not None and cast(object, audio.codec_context) is not None else None
        turn = _Turn.of(frame)
        width, height = (frame.height, frame.width) if turn.swaps_axes else (frame.width, frame.height)
        average, base = float(stream.average_rate or 0), float(stream.base_rate or 0)
        # RGB sources are converted to BT.601 limited range by swscale.
        name, has_full_range = frame.format.name, int(frame.color_range) == int(ColorRange.JPEG)
        is_full = frame.format.is_planar and (name.startswith("yuvj") or has_full_range)
        color = YuvColor() if frame.format.is_rgb else YuvColor(_MATRICES.get(int(frame.colorspace), "bt601"), is_full)
        return MediaInfo(
            container=container.format.name,
            codec=stream.codec_context.name,
            pixel_format=frame.format.name,
            width_px=width,
            height_px=height,
            rotation_deg=turn.rotation_deg,
            is_mirrored=turn.is_mirrored,
            avg_fps=average,
            is_variable_rate=abs(average - base) > 0.01 * base,
            duration_s=_duration_s(container, stream),
            declared_frames=stream.frames or None,
            video_start_s=float((presentation_time(frame) or 0) * time_base(stream)),
            has_audio=audio is not None,
            audio_codec=context.name if context else None,
            audio_rate_hz=context.sample_rate if context else None,
            audio_channels=context.channels if context else None,
            audio_start_s=_start_s(audio) if audio else None,
            color=color,
        )

    def slots(self) -> Iterator[tuple[int, VideoFrame, bool, bool]]:
        """Yields (slot, frame, is_corrupt, is_repeat) for each 25-fps slot, as FFmpeg's `fps=25` does."""
        max_s = self.limits.max_seconds
        clock = _SlotClock(time_base(self.stream), 1 / Fraction(self.stream.average_rate or FPS))
        shown: VideoFrame | None = None
        slot = last_slot = 0
        is_corrupt = is_repeat = False
        for frame, is_after_loss in self.frames():
            start = clock.start_slot(frame)
            if shown is None:
                slot, last_slot = start, start + round(max_s * FPS)
            elif start > last_slot:
                raise Rejected(Reason.TOO_LARGE, f"{self.path}: its timestamps span more than {max_s:g} s")
            while shown is not None and slot < start:
                yield slot, shown, is_corrupt or (is_repeat and is_after_loss), is_repeat
                slot, is_repeat = slot + 1, True
            shown, is_corrupt, is_repeat = frame, is_after_loss or frame.is_corrupt, False
        if shown is None:
            return
        end, self.end_s = clock.end(shown)
        while slot < min(end, last_slot):
            yield slot, shown, is_corrupt, is_repeat
            slot, is_repeat = slot + 1, True

    def first_frame(self) -> VideoFrame:
        """The first frame that can be decoded.

        Raises:
            Rejected: there is none; the reason is that of the last error, TRUNCATED or NO_VIDEO without one.
        """
        for frame, _ in self.frames():
            return frame
        if self.error is None:
            reason = Reason.TRUNCATED if self.stream.frames or self.stream.duration else Reason.NO_VIDEO
            raise Rejected(reason, f"{self.path}: its video stream has no frame")
        reason = rejection_of(self.error, self.path, is_open=True).reason
        raise Rejected(reason, f"{self.path}: no frame could be decoded ({self.error.strerror})")

    def check_complete(self) -> None:
        """Raises Rejected(TRUNCATED or CORRUPT_FRAMES) when the video ended earlier than its header promised."""
        declared_s = _declared_end_s(self.stream)
        seen_s = self.end_s
        if declared_s is None:
            declared_s = (self.container.duration or 0) / 1e6
            seen_s = max(seen_s, self._packets_end_s)
        frame_s = 1.0 / float(self.stream.average_rate or FPS)
        missing_s = declared_s - seen_s
        if missing_s <= max(TRUNCATION_TOLERANCE_S, 2 * frame_s):
            return
        is_damaged = 2 * self.num_failed * frame_s > missing_s
        raise Rejected(
            Reason.CORRUPT_FRAMES if is_damaged else Reason.TRUNCATED,
            f"{self.path}: the header promises video up to {declared_s:.2f} s, it ends at {seen_s:.2f} s "
            f"({self.num_frames} frames decoded, {self.num_failed} packets damaged)",
        )

    def _note(self, error: FFmpegError) -> None:
        """Counts a packet that could not be decoded; raises what is no property of the packet."""
        if isinstance(error, av.error.MemoryError | av.error.ExitError):
            raise error
        self.error = error
        self.num_failed += 1

    def _packets(self) -> Iterator[Packet]:
        """Packets of the stream, the flushing one last, also where the container breaks off with an error."""
        try:
            yield from (
                self._all_packets() if _declared_end_s(self.stream) is None else self.container.demux(self.stream)
            )
        except FFmpegError as error:
            self._note(error)
            if isinstance(error, OSError):
                read_through(self.path)
            flush = Packet()
            flush.stream = self.stream
            yield flush

    def _all_packets(self) -> Iterator[Packet]:
        """As `_packets` where only the container declares a length: its audio is followed, too, to find the end."""
        streams: list[Stream] = [self.stream, *self.container.streams.audio]
        for packet in self.container.demux(streams):
            if packet.stream is self.stream:
                yield packet
            if packet.pts is not None:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._packets_end_s = max(self._packets_end_s, end_s)


class _SlotClock:
    """Timestamps -> 25-fps slots, in exact integer arithmetic; halves round away from zero as in libavutil."""

    def __init__(self, time_base: Fraction, frame_s: Fraction) -> None:
        self._time_base = time_base
        self._num, self._den = 2 * FPS * time_base.numerator, 2 * time_base.denominator
        self._step = max(1, round(frame_s / time_base))  # of frames without a duration
        self._pts: int | None = None

    def start_slot(self, frame: VideoFrame) -> int:
        """First slot that may show the frame."""
        pts = frame.pts
        if pts is None:
            pts = frame.dts if self._pts is None else self._pts + self._step
        self._pts = pts or 0
        return self._slot(self._pts)

    def end(self, frame: VideoFrame) -> tuple[int, float]:
        """First slot after the last frame, and the time at which it ends."""
        pts = (self._pts or 0) + (frame.duration or self._step)
        return self._slot(pts), float(pts * self._time_base)

    def _slot(self, pts: int) -> int:
        half = self._den // 2
        return (pts * self._num + half) // self._den if pts >= 0 else -((half - pts * self._num) // self._den)


class _PlaneReader:
    """Decoded frames -> upright I420 planes: views where the decoder delivers that, one shared scaler elsewhere."""

    def __init__(self, info: MediaInfo, path: Path) -> None:
        self._info, self._path = info, path
        self._scaler = VideoReformatter()
        self._turn: _Turn | None = None

    def read(self, frame: VideoFrame) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Planes y, u, v; views into the frame unless it had to be converted or turned.

        Raises:
            Rejected: UNSUPPORTED_CODEC, the frame size changes.
        """
        turn = self._turn = self._turn or _Turn.of(frame)
        if frame.format.name not in _PLAIN_FORMATS:
            # The same frame as I420: YUV keeps its matrix and range, RGB becomes BT.601 limited, `YuvColor()`.
            full, limited, bt601 = ColorRange.JPEG, ColorRange.MPEG, Colorspace.ITU601
            is_rgb, is_full = frame.format.is_rgb, self._info.color.is_full_range
            frame = self._scaler.reformat(
                frame,
                format="yuv420p",
                src_colorspace=None if is_rgb else bt601,
                dst_colorspace=bt601,
                src_color_range=full if is_rgb or is_full else limited,
                dst_color_range=full if is_full else limited,
                threads=1,
            )
        width, height = frame.width, frame.height
        if (height, width) != turn.source_shape(self._info):
            raise Rejected(Reason.UNSUPPORTED_CODEC, f"{self._path}: the frame size changes to {width}x{height}")
        y, u, v = frame.planes
        half_width, half_height = (width + 1) // 2, (height + 1) // 2
        planes = _view(y, width, height), _view(u, half_width, half_height), _view(v, half_width, half_height)
        return planes if turn.is_none else (turn.apply(planes[0]), turn.apply(planes[1]), turn.apply(planes[2]))


def _view(plane: VideoPlane, width: int, height: int) -> NDArray[np.uint8]:
    return np.ndarray((height, width), np.uint8, plane, 0, (plane.line_size, 1))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class _Turn:
    """The turn that makes a decoded frame upright: transpose, then mirror left-right, then top-bottom."""

    swaps_axes: bool = False
    flips_x: bool = False
    flips_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> "_Turn":
        """From the display matrix of the container: (x, y) is shown at (a x + c y, b x + d y), 16.16 fixed point."""
        data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if data is None:
            return cls()
        a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()  # pyright: ignore[reportCallIssue, reportArgumentType]
        swaps = abs(b) + abs(c) > abs(a) + abs(d)
        return cls(swaps, c < 0, b < 0) if swaps else cls(swaps, a < 0, d < 0)

    @property
    def is_none(self) -> bool:
        """The frame is upright as decoded."""
        return not (self.swaps_axes or self.flips_x or self.flips_y)

    @property
    def is_mirrored(self) -> bool:
        """A rotation alone does not make it upright."""
        return self.swaps_axes ^ self.flips_x ^ self.flips_y

    @property
    def rotation_deg(self) -> int:
        """Clockwise angle of the x axis."""
        if self.swaps_axes:
            return 270 if self.flips_y else 90
        return 180 if self.flips_x else 0

    def source_shape(self, info: MediaInfo) -> tuple[int, int]:
        """(height, width) of the decoded frame whose upright size is in `info`."""
        return (info.width_px, info.height_px) if self.swaps_axes else (info.height_px, info.width_px)

    def apply(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upright copy of a plane."""
        plane = plane.T if self.swaps_axes else plane
        return np.ascontiguousarray(plane[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1])
