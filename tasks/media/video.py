"""Media: read video as 25-fps I420 pictures and audio as 16-kHz mono; the only reader that knows PyAV.

Both come on the time axis of the container, so start offsets, variable frame rate and rotation are honoured. What is
wrong with a file itself leaves this module as `Rejected`; missing files and failing disks leave it as OSError.
"""

import math
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import av.error
import numpy as np
import soxr
from av.audio.frame import AudioFrame
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
from storage.timelaw import FPS, SAMPLE_RATE_HZ, num_samples

# Demuxers that open nothing but the file itself. Playlists (ffconcat, HLS, SDP, DASH) are not among them.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
AUDIO_FORMATS = VIDEO_FORMATS + ",wav,flac,mp3,ogg,aac"

TRUNCATION_TOLERANCE_S = 0.2
AUDIO_GAP_S = 0.02  # half a video frame: smaller steps of the audio clock are jitter of the container's timestamps
SILENCE_PEAK = 1e-3  # -60 dB full scale
_AUDIO_BLOCK_FRAMES = 64
_SPARE_BYTES = 256 << 20

Matrix = Literal["bt601", "bt709", "bt2020"]
# ITU-T H.273 matrix codes; every other code, "unspecified" among them, is read as BT.601 like swscale does.
_MATRICES: dict[int, Matrix] = {1: "bt709", 7: "bt709", 9: "bt2020", 10: "bt2020"}
_PLAIN_FORMATS = frozenset({"yuv420p", "yuvj420p"})
_SAMPLE_TYPES = {
    "u8": (np.dtype(np.uint8), 128.0), "s16": (np.dtype(np.int16), 32768.0), "s32": (np.dtype(np.int32), 2147483648.0),
    "s64": (np.dtype(np.int64), 2.0**63), "flt": (np.dtype(np.float32), 1.0), "dbl": (np.dtype(np.float64), 1.0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds against decompression bombs and absurd headers; beyond one of them a file is TOO_LARGE (or TIMEOUT)."""

    max_pixels: int = 8192 * 4352
    max_seconds: float = 4 * 3600.0
    max_frames: int = 2_000_000
    max_streams: int = 32
    max_fps: float = 240.0
    max_wall_s: float = 4 * 3600.0


DEFAULT_LIMITS = MediaLimits()


@dataclass(frozen=True, slots=True)
class YuvColor:
    """How Y, U, V become R, G, B: matrix of the ITU recommendation and whether Y spans 0..255 instead of 16..235."""

    matrix: Matrix = "bt601"
    is_full_range: bool = False


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a video file is. Sizes are those of the upright picture, times are on the container's axis.

    Attributes:
        is_variable_rate: as far as the headers tell (those of Matroska name one rate at most).
        container, codec, pixel_format: FFmpeg's names; the container is found by content, not by the file's suffix.
        rotation_deg: clockwise turn (0, 90, 180, 270) that made the picture upright; `is_mirrored` when flipped, too.
        declared_frames: frame count of the index, None when the container has none.
        duration_s: of the video stream, or of the container where the stream has none; 0 when unknown.
        video_start_s, audio_start_s: time of the first picture and of the first packet of sound.
        color: how to convert the planes of `iter_slots`.
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
    """One 25-fps slot: the picture shown at container time slot/25 s.

    Attributes:
        slot: consecutive from frame to frame, none missing; the first one need not be 0.
        y, u, v: upright uint8 planes [H, W], [ceil(H/2), ceil(W/2)] twice; valid only until the next iteration.
        color: how to convert them to RGB.
        is_corrupt: the decoder flagged this picture, or pictures that belong here could not be decoded.
        is_repeat: same picture as in the slot before.
    """

    slot: int
    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    color: YuvColor
    is_corrupt: bool
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """A whole sound track: samples [n] float32 mono 16 kHz in [-1, 1]; sample 0 is heard at container time start_s."""

    samples: NDArray[np.float32]
    start_s: float
    is_silent: bool


def probe(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Reads the headers and decodes one picture.

    Raises:
        Rejected: EMPTY, NOT_MEDIA, TRUNCATED, NO_VIDEO, TOO_LARGE, UNSUPPORTED_CODEC, CORRUPT_FRAMES, TIMEOUT or
            UNSAFE_PATH (not a regular file).
        OSError: the file is missing or cannot be read.
    """
    with _opened(path, VIDEO_FORMATS, limits) as container:
        stream = _video_stream(container, path, limits)
        frame = _first_picture(container, stream, path, limits)
        return _describe(container, stream, frame)


def header_seconds(path: Path) -> float:
    """Length of a video in seconds as its header claims, 0.0 when it claims nothing; decodes no picture."""
    try:
        with _opened(path, VIDEO_FORMATS, DEFAULT_LIMITS) as container:
            stream = next(iter(container.streams.video), None)
            return _duration_s(container, stream) if stream is not None else 0.0
    except Rejected:
        return 0.0


def iter_slots(path: Path, limits: MediaLimits = DEFAULT_LIMITS, info: MediaInfo | None = None) -> Iterator[SlotFrame]:
    """Decodes the video once and yields its pictures at 25 per second.

    Slot k shows input frame max{i : floor(25*pts_i + 1/2) <= k}, computed in exact integers: the selection and the
    count of FFmpeg's `fps=25` filter.

    Args:
        path: the file.
        limits: bounds.
        info: result of `probe` of the same file; probed here when None.

    Raises:
        Rejected: as `probe`; TRUNCATED after the last slot when the video ends earlier than its header says.
        OSError: the file is missing or cannot be read.
    """
    info = info or probe(path, limits)
    with _opened(path, VIDEO_FORMATS, limits) as container:
        stream = _video_stream(container, path, limits)
        decoding = _Decoding(container, stream, path, limits)
        planes = _PlaneReader(info, path)
        y = u = v = np.empty((0, 0), np.uint8)
        for slot, frame, is_corrupt, is_repeat in _resampled(decoding, path, limits):
            if not is_repeat:
                y, u, v = planes.read(frame)
            yield SlotFrame(slot, y, u, v, info.color, is_corrupt, is_repeat)
        decoding.check_complete()


def read_audio(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> AudioTrack | None:
    """Decodes the first sound track to 16-kHz mono: channels averaged, soxr HQ, gaps filled with silence.

    Formats that FFmpeg's whitelisted demuxers do not know are left to librosa, when libsndfile can open them.

    Returns:
        None when the file has no audio stream.

    Raises:
        Rejected: EMPTY, NOT_MEDIA, TRUNCATED, TOO_LARGE, UNSUPPORTED_CODEC, TIMEOUT, UNSAFE_PATH.
        OSError: the file is missing or cannot be read.
    """
    try:
        with _opened(path, AUDIO_FORMATS, limits) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            return _decode_track(container, stream, path, limits)
    except Rejected as rejection:
        samples = _librosa_samples(path, limits) if rejection.reason is Reason.NOT_MEDIA else None
        if samples is None:
            raise
        return _track([samples], 0.0)


def cut_audio(track: AudioTrack, first_slot: int, num_slots: int) -> NDArray[np.float32]:
    """Samples of `num_slots` slots: [640 * num_slots] float32, the first for time first_slot/25 s; zero outside."""
    start = num_samples(first_slot) - round(track.start_s * SAMPLE_RATE_HZ)
    out = np.zeros(num_samples(num_slots), np.float32)
    first, last = max(start, 0), min(start + len(out), len(track.samples))
    if first < last:
        out[first - start : last - start] = track.samples[first:last]
    return out


# ---- opening ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, formats: str, limits: MediaLimits) -> Iterator[InputContainer]:
    """Opens a regular file with whitelisted demuxers; FFmpeg's errors inside the block become Rejected."""
    _check_file(path)
    # Absolute: FFmpeg would read the part before a colon of a relative name as a protocol.
    name = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
    options = {"max_pixels": str(limits.max_pixels)}
    guards = {"format_whitelist": formats, "protocol_whitelist": "file"}
    timeout = (limits.max_wall_s, limits.max_wall_s)
    is_open = False
    try:
        with av.open(
            name, options=options, container_options=guards, metadata_errors="replace", timeout=timeout
        ) as container:
            is_open = True
            yield cast(InputContainer, container)
    except FFmpegError as error:
        raise _rejection(error, path, is_open) from error


def _check_file(path: Path) -> None:
    """Raises OSError as the system does, UNSAFE_PATH for what is no regular file (a FIFO would block), EMPTY."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Rejected(Reason.UNSAFE_PATH, f"{path}: not a regular file")
    if status.st_size == 0:
        raise Rejected(Reason.EMPTY, f"{path}: the file has no bytes")
    with path.open("rb"):
        pass


def _rejection(error: FFmpegError, path: Path, is_open: bool) -> Rejected:
    """What an FFmpeg error says about the file; raises instead when the machine is at fault."""
    if isinstance(error, av.error.MemoryError):
        # FFmpeg refuses absurd sizes with the same code: a MemoryError of our own tells a full machine from them.
        bytearray(_SPARE_BYTES)
        return Rejected(Reason.TOO_LARGE, f"{path}: its headers ask for an absurd amount of memory")
    if isinstance(error, OSError):
        _read_through(path)
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return Rejected(Reason.TIMEOUT, f"{path}: reading took longer than max_wall_s")
    if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError | av.error.NotImplementedError):
        return Rejected(Reason.UNSUPPORTED_CODEC, f"{path}: {error.strerror}")
    if isinstance(error, av.error.ArgumentError) and is_open:
        return Rejected(Reason.TOO_LARGE, f"{path}: the size of its picture is invalid or above max_pixels")
    if is_open:
        return Rejected(Reason.CORRUPT_FRAMES, f"{path}: {error.strerror}")
    return _unopened(path, error)


def _read_through(path: Path) -> None:
    """Raises OSError when the disk cannot deliver the bytes; FFmpeg reports short files as I/O errors, too."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def _unopened(path: Path, error: FFmpegError) -> Rejected:
    """TRUNCATED for a known container whose index is missing or cut off, NOT_MEDIA for anything else."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] in {b"ftyp", b"moov", b"mdat"} and not _has_whole_index(path):
        return Rejected(Reason.TRUNCATED, f"{path}: MP4 without a whole index (moov); the end of the file is missing")
    if head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return Rejected(Reason.TRUNCATED, f"{path}: the header of the container is cut off ({error.strerror})")
    return Rejected(Reason.NOT_MEDIA, f"{path}: no video or audio container of a known kind ({error.strerror})")


def _has_whole_index(path: Path) -> bool:
    """True when the top-level boxes of an ISO media file (ISO/IEC 14496-12) hold a moov box that ends in the file."""
    size = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            length = int.from_bytes(header[8:16], "big") if length == 1 else length or size - position
            if header[4:8] == b"moov":
                return position + length <= size
            if length < 8:
                return False
            position += length
    return False


# ---- video: description ----------------------------------------------------------------------------------------------


def _video_stream(container: InputContainer, path: Path, limits: MediaLimits) -> VideoStream:
    """The first stream of moving pictures, with its decoder set up, after a check of what the headers claim."""
    streams = container.streams
    if len(streams) > limits.max_streams:
        raise Rejected(Reason.TOO_LARGE, f"{path}: {len(streams)} streams, the limit is {limits.max_streams}")
    moving = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise Rejected(Reason.NO_VIDEO, f"{path}: no video stream (a cover picture is none)")
    stream = moving[0]
    if cast(object, stream.codec_context) is None:
        raise Rejected(Reason.UNSUPPORTED_CODEC, f"{path}: no decoder for its video")
    _check_claims(container, stream, path, limits)
    stream.thread_type = "NONE"
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    return stream


def _check_claims(container: InputContainer, stream: VideoStream, path: Path, limits: MediaLimits) -> None:
    claims = (
        (stream.width * stream.height, limits.max_pixels, "pixels per frame"),
        (float(stream.average_rate or 0), limits.max_fps, "frames per second"),
        (stream.frames, limits.max_frames, "frames"),
        (max(_duration_s(container, stream), (container.duration or 0) / 1e6), limits.max_seconds, "seconds"),
    )
    for found, limit, unit in claims:
        if found > limit:
            raise Rejected(Reason.TOO_LARGE, f"{path}: {found:g} {unit}, the limit is {limit:g}")


def _first_picture(container: InputContainer, stream: VideoStream, path: Path, limits: MediaLimits) -> VideoFrame:
    decoding = _Decoding(container, stream, path, limits)
    for frame, _ in decoding.frames():
        return frame
    if decoding.error is None:
        reason = Reason.TRUNCATED if stream.frames or stream.duration else Reason.NO_VIDEO
        raise Rejected(reason, f"{path}: its video stream has no picture")
    rejection = _rejection(decoding.error, path, is_open=True)
    raise Rejected(rejection.reason, f"{path}: no picture could be decoded ({decoding.error.strerror})")


def _describe(container: InputContainer, stream: VideoStream, frame: VideoFrame) -> MediaInfo:
    audio = container.streams.audio[0] if container.streams.audio else None
    context = audio.codec_context if audio is not None and cast(object, audio.codec_context) is not None else None
    turn = _Turn.of(frame)
    width, height = (frame.height, frame.width) if turn.swaps_axes else (frame.width, frame.height)
    pts = _pts(frame)
    average, base = float(stream.average_rate or 0), float(stream.base_rate or 0)
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
        video_start_s=float((pts or 0) * _time_base(stream)),
        has_audio=audio is not None,
        audio_codec=context.name if context else None,
        audio_rate_hz=context.sample_rate if context else None,
        audio_channels=context.channels if context else None,
        audio_start_s=_start_s(audio) if audio else None,
        color=_color(frame),
    )


def _time_base(stream: VideoStream | AudioStream) -> Fraction:
    return stream.time_base or Fraction(1, 1_000_000)


def _pts(frame: VideoFrame | AudioFrame) -> int | None:
    """Presentation time in units of the stream's time base; AVI has decoding times only."""
    return frame.pts if frame.pts is not None else frame.dts


def _start_s(stream: VideoStream | AudioStream) -> float:
    return float((stream.start_time or 0) * _time_base(stream))


def _duration_s(container: InputContainer, stream: VideoStream) -> float:
    """Length of the video stream, else of the container, else 0."""
    end_s = _declared_end_s(stream)
    if end_s is not None:
        return max(0.0, end_s - _start_s(stream))
    return (container.duration or 0) / 1e6


def _declared_end_s(stream: VideoStream) -> float | None:
    """Container time at which the stream says it ends; Matroska says it in a tag HH:MM:SS.fraction."""
    if stream.frames and stream.container.format.name == "avi":
        return float(stream.frames * _time_base(stream))  # FFmpeg guesses the duration anew when the index is missing
    if stream.duration:
        return _start_s(stream) + float(stream.duration * _time_base(stream))
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].strip("\0").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None


def _color(frame: VideoFrame) -> YuvColor:
    """Colour of the I420 planes made from this frame: RGB sources are converted to BT.601 limited by swscale."""
    name = frame.format.name
    is_full = frame.format.is_planar and (name.startswith("yuvj") or int(frame.color_range) == int(ColorRange.JPEG))
    if frame.format.is_rgb:
        return YuvColor()
    return YuvColor(_MATRICES.get(int(frame.colorspace), "bt601"), is_full)


# ---- video: decoding -------------------------------------------------------------------------------------------------


class _Decoding:
    """Pictures of one stream in presentation order, surviving packets that cannot be decoded.

    Attributes:
        num_frames: pictures so far.
        num_failed: packets that gave an error instead.
        error: the last such error.
        end_s: container time at which the last picture ends; set by the reader of the pictures.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, path: Path, limits: MediaLimits) -> None:
        self.container, self.stream, self.path, self.limits = container, stream, path, limits
        self.num_frames = self.num_failed = 0
        self.error: FFmpegError | None = None
        self.end_s = self._packets_end_s = -math.inf

    def frames(self) -> Iterator[tuple[VideoFrame, bool]]:
        """Yields (frame, is_after_loss): whether packets before it were lost."""
        deadline_s = time.monotonic() + self.limits.max_wall_s
        num_failed = 0
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
            if time.monotonic() > deadline_s or self.num_frames > self.limits.max_frames:
                raise self._over_limit()

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
            f"({self.num_frames} pictures decoded, {self.num_failed} packets damaged)",
        )

    def _note(self, error: FFmpegError) -> None:
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
                _read_through(self.path)
            flush = Packet()
            flush.stream = self.stream
            yield flush

    def _all_packets(self) -> Iterator[Packet]:
        """The same where only the file as a whole has a length: follows its sound, too, to see whether it is there."""
        streams: list[Stream] = [self.stream, *self.container.streams.audio]
        for packet in self.container.demux(streams):
            if packet.stream is self.stream:
                yield packet
            if packet.pts is not None:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._packets_end_s = max(self._packets_end_s, end_s)

    def _over_limit(self) -> Rejected:
        if self.num_frames > self.limits.max_frames:
            return Rejected(Reason.TOO_LARGE, f"{self.path}: more than {self.limits.max_frames} frames")
        return Rejected(Reason.TIMEOUT, f"{self.path}: decoding took longer than {self.limits.max_wall_s:g} s")


def _resampled(decoding: _Decoding, path: Path, limits: MediaLimits) -> Iterator[tuple[int, VideoFrame, bool, bool]]:
    """Yields (slot, frame, is_corrupt, is_repeat) for each 25-fps slot, as FFmpeg's `fps=25` does."""
    clock = _SlotClock(_time_base(decoding.stream), 1 / Fraction(decoding.stream.average_rate or FPS))
    shown: VideoFrame | None = None
    slot = last_slot = 0
    is_corrupt = is_repeat = False
    for frame, is_after_loss in decoding.frames():
        start = clock.start_slot(frame)
        if shown is None:
            slot, last_slot = start, start + round(limits.max_seconds * FPS)
        elif start > last_slot:
            raise Rejected(Reason.TOO_LARGE, f"{path}: its timestamps span more than {limits.max_seconds:g} s")
        while shown is not None and slot < start:
            yield slot, shown, is_corrupt or (is_repeat and is_after_loss), is_repeat
            slot, is_repeat = slot + 1, True
        shown, is_corrupt, is_repeat = frame, is_after_loss or frame.is_corrupt, False
    if shown is None:
        return
    end, decoding.end_s = clock.end(shown)
    while slot < min(end, last_slot):
        yield slot, shown, is_corrupt, is_repeat
        slot, is_repeat = slot + 1, True


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
            Rejected: UNSUPPORTED_CODEC, the picture changed its size.
        """
        turn = self._turn = self._turn or _Turn.of(frame)
        if frame.format.name not in _PLAIN_FORMATS:
            frame = self._converted(frame)
        width, height = frame.width, frame.height
        if (height, width) != turn.source_shape(self._info):
            raise Rejected(Reason.UNSUPPORTED_CODEC, f"{self._path}: the picture changes its size to {width}x{height}")
        y, u, v = frame.planes
        half_width, half_height = (width + 1) // 2, (height + 1) // 2
        planes = _view(y, width, height), _view(u, half_width, half_height), _view(v, half_width, half_height)
        return planes if turn.is_none else (turn.apply(planes[0]), turn.apply(planes[1]), turn.apply(planes[2]))

    def _converted(self, frame: VideoFrame) -> VideoFrame:
        """The same picture as I420: YUV keeps its matrix and range, RGB becomes what `YuvColor()` says."""
        full, limited, bt601 = ColorRange.JPEG, ColorRange.MPEG, Colorspace.ITU601
        is_rgb, is_full = frame.format.is_rgb, self._info.color.is_full_range
        return self._scaler.reformat(
            frame,
            format="yuv420p",
            src_colorspace=None if is_rgb else bt601,
            dst_colorspace=bt601,
            src_color_range=full if is_rgb or is_full else limited,
            dst_color_range=full if is_full else limited,
            threads=1,
        )


def _view(plane: VideoPlane, width: int, height: int) -> NDArray[np.uint8]:
    return np.ndarray((height, width), np.uint8, plane, 0, (plane.line_size, 1))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class _Turn:
    """What makes a decoded picture upright: transpose, then mirror left-right, then top-bottom."""

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
        """Nothing to do."""
        return not (self.swaps_axes or self.flips_x or self.flips_y)

    @property
    def is_mirrored(self) -> bool:
        """No rotation alone does it."""
        return self.swaps_axes ^ self.flips_x ^ self.flips_y

    @property
    def rotation_deg(self) -> int:
        """Clockwise angle of the x axis."""
        if self.swaps_axes:
            return 270 if self.flips_y else 90
        return 180 if self.flips_x else 0

    def source_shape(self, info: MediaInfo) -> tuple[int, int]:
        """(height, width) of the decoded picture whose upright size `info` tells."""
        return (info.width_px, info.height_px) if self.swaps_axes else (info.height_px, info.width_px)

    def apply(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upright copy of a plane."""
        plane = plane.T if self.swaps_axes else plane
        return np.ascontiguousarray(plane[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1])


# ---- audio -----------------------------------------------------------------------------------------------------------


def _decode_track(container: InputContainer, stream: AudioStream, path: Path, limits: MediaLimits) -> AudioTrack:
    if cast(object, stream.codec_context) is None:
        raise Rejected(Reason.UNSUPPORTED_CODEC, f"{path}: no decoder for its audio")
    stream.codec_context.thread_type = "NONE"
    track = _TrackBuilder(path, limits)
    deadline_s = time.monotonic() + limits.max_wall_s
    for frame in _audio_frames(container, stream, path):
        pts = _pts(frame)
        track.push(_mono(frame), frame.sample_rate, None if pts is None else pts * _time_base(stream))
        if time.monotonic() > deadline_s:
            raise Rejected(Reason.TIMEOUT, f"{path}: decoding audio took longer than {limits.max_wall_s:g} s")
    # Encoder delay that an MP3 header declares is cut off, not shifted in: its first sample belongs to time 0.
    is_late = container.format.name != "mp3"
    return _track(track.finish(), float(track.start_s) if is_late else 0.0)


def _audio_frames(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[AudioFrame]:
    """Decoded frames; damaged packets are left out (their time becomes silence)."""
    try:
        for packet in container.demux(stream):
            try:
                yield from cast(list[AudioFrame], packet.decode())
            except av.error.InvalidDataError:
                continue
    except (av.error.MemoryError, av.error.ExitError):
        raise
    except FFmpegError as error:
        if isinstance(error, OSError):
            _read_through(path)


def _mono(frame: AudioFrame) -> NDArray[np.float32]:
    """Mean over channels: [n] float32 in [-1, 1]; NaN and infinities become 0."""
    dtype, scale = _SAMPLE_TYPES[frame.format.name.removesuffix("p")]
    num, channels = frame.samples, frame.layout.nb_channels
    per_plane = num if frame.format.is_planar else num * channels
    planes = [np.frombuffer(plane, dtype, per_plane) for plane in frame.planes]  # pyright: ignore[reportCallIssue, reportArgumentType]
    mono = np.zeros(num, np.float32)
    for channel in planes if frame.format.is_planar else planes[0].reshape(num, channels).T:
        mono += channel
    mono *= 1.0 / (scale * channels)
    if dtype == np.uint8:
        mono -= 1.0
    if not np.isfinite(mono.sum()):
        mono = np.nan_to_num(mono, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(mono, -1.0, 1.0, out=mono)


class _TrackBuilder:
    """Places chunks of one sound track by their timestamps and resamples them to 16 kHz in passing.

    Attributes:
        start_s: container time of the first sample.
    """

    def __init__(self, path: Path, limits: MediaLimits) -> None:
        self._path, self._max_s = path, limits.max_seconds
        self.start_s = Fraction(0)
        self._rate_hz = 0
        self._resampler: soxr.ResampleStream | None = None
        self._pending: list[NDArray[np.float32]] = []
        self._out: list[NDArray[np.float32]] = []
        self._segment_s = Fraction(0)
        self._position = 0  # samples of this segment at its own rate

    def push(self, samples: NDArray[np.float32], rate_hz: int, time_s: Fraction | None) -> None:
        """Appends samples whose first one is heard at `time_s` (None: right after the ones before)."""
        if rate_hz != self._rate_hz:
            self._start_segment(rate_hz, time_s)
        gap = 0 if time_s is None else round((time_s - self._segment_s) * rate_hz) - self._position
        if abs(gap) > AUDIO_GAP_S * rate_hz:
            if (self._position + gap) / rate_hz > self._max_s:
                raise Rejected(Reason.TOO_LARGE, f"{self._path}: its sound spans more than {self._max_s:g} s")
            self._append(np.zeros(max(gap, 0), np.float32))
            samples = samples[max(-gap, 0) :]
        self._append(samples)

    def finish(self) -> list[NDArray[np.float32]]:
        """All samples at 16 kHz, in pieces."""
        self._flush(is_last=True)
        return self._out

    def _start_segment(self, rate_hz: int, time_s: Fraction | None) -> None:
        is_first = self._rate_hz == 0
        self._flush(is_last=True)
        if is_first:
            self.start_s = self._segment_s = time_s or Fraction(0)
        else:
            self._segment_s = self.start_s + Fraction(sum(map(len, self._out)), SAMPLE_RATE_HZ)
        self._rate_hz, self._position = rate_hz, 0
        is_native = rate_hz == SAMPLE_RATE_HZ
        self._resampler = None if is_native else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, quality="HQ")

    def _append(self, samples: NDArray[np.float32]) -> None:
        self._position += len(samples)
        if self._position > self._max_s * self._rate_hz:
            raise Rejected(Reason.TOO_LARGE, f"{self._path}: more than {self._max_s:g} s of sound")
        self._pending.append(samples)
        if len(self._pending) >= _AUDIO_BLOCK_FRAMES:
            self._flush(is_last=False)

    def _flush(self, is_last: bool) -> None:
        block = np.concatenate(self._pending) if self._pending else np.empty(0, np.float32)
        self._pending.clear()
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block, last=is_last)
        self._out.append(cast(NDArray[np.float32], block))


def _track(pieces: list[NDArray[np.float32]], start_s: float) -> AudioTrack:
    samples = np.concatenate([np.empty(0, np.float32), *pieces])
    np.clip(samples, -1.0, 1.0, out=samples)  # the filter overshoots at full scale
    return AudioTrack(samples, start_s, not bool((np.abs(samples) >= SILENCE_PEAK).any()))


def _librosa_samples(path: Path, limits: MediaLimits) -> NDArray[np.float32] | None:
    """Samples [n] of a format only libsndfile knows, None when it does not either."""
    import soundfile

    try:
        with path.open("rb") as file, soundfile.SoundFile(file) as sound:
            if sound.frames > limits.max_seconds * sound.samplerate:
                raise Rejected(Reason.TOO_LARGE, f"{path}: more than {limits.max_seconds:g} s of sound")
            import librosa

            # An open SoundFile, not the name: librosa would hand an unknown file to any ffmpeg program it finds.
            samples, _ = librosa.load(sound, sr=SAMPLE_RATE_HZ, mono=True)
    except (soundfile.SoundFileError, ValueError, RuntimeError):
        return None
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
