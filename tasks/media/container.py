"""Open media files with PyAV: the demuxers that are allowed, the limits, and FFmpeg's errors as `Rejected`.

A defect of the file itself is raised as `Rejected` by all readers of this package, a missing file or a failing disk as
OSError.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from storage.errors import Reason, Rejected

# Demuxers that open nothing but the file itself. Playlists (ffconcat, HLS, SDP, DASH) are not among them.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
AUDIO_FORMATS = VIDEO_FORMATS + ",wav,flac,mp3,ogg,aac"

_SPARE_BYTES = 256 << 20


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


@contextmanager
def open_media(path: Path, formats: str, limits: MediaLimits) -> Iterator[InputContainer]:
    """Opens a regular file with whitelisted demuxers; FFmpeg's errors inside the block become Rejected.

    Args:
        path: the file.
        formats: names of the demuxers, VIDEO_FORMATS or AUDIO_FORMATS.
        limits: bounds.

    Raises:
        Rejected: UNSAFE_PATH for what is no regular file (a FIFO would block), EMPTY, or what `rejection_of` returns.
        OSError: the file is missing or cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Rejected(Reason.UNSAFE_PATH, f"{path}: not a regular file")
    if status.st_size == 0:
        raise Rejected(Reason.EMPTY, f"{path}: the file has no bytes")
    with path.open("rb"):
        pass  # raises OSError as the system does
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
        raise rejection_of(error, path, is_open) from error


def rejection_of(error: FFmpegError, path: Path, is_open: bool) -> Rejected:
    """The rejection of a file for an FFmpeg error; `is_open`: it was raised after the container was opened.

    Raises:
        OSError, MemoryError: the machine is at fault, not the file.
    """
    if isinstance(error, av.error.MemoryError):
        # FFmpeg refuses absurd sizes with the same code: only a full machine raises a MemoryError here.
        bytearray(_SPARE_BYTES)
        return Rejected(Reason.TOO_LARGE, f"{path}: its headers ask for an absurd amount of memory")
    if isinstance(error, OSError):
        read_through(path)
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return Rejected(Reason.TIMEOUT, f"{path}: reading took longer than max_wall_s")
    if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError | av.error.NotImplementedError):
        return Rejected(Reason.UNSUPPORTED_CODEC, f"{path}: {error.strerror}")
    if isinstance(error, av.error.ArgumentError) and is_open:
        return Rejected(Reason.TOO_LARGE, f"{path}: its frame size is invalid or above max_pixels")
    if is_open:
        return Rejected(Reason.CORRUPT_FRAMES, f"{path}: {error.strerror}")
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] in {b"ftyp", b"moov", b"mdat"} and not _has_whole_index(path):
        return Rejected(Reason.TRUNCATED, f"{path}: MP4 without a whole index (moov); the end of the file is missing")
    if head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return Rejected(Reason.TRUNCATED, f"{path}: the header of the container is cut off ({error.strerror})")
    return Rejected(Reason.NOT_MEDIA, f"{path}: no video or audio container of a known kind ({error.strerror})")


def read_through(path: Path) -> None:
    """Raises OSError when the disk cannot deliver the bytes; FFmpeg reports short files as I/O errors, too."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def time_base(stream: VideoStream | AudioStream) -> Fraction:
    """Seconds per unit of the stream's timestamps."""
    return stream.time_base or Fraction(1, 1_000_000)


def presentation_time(frame: VideoFrame | AudioFrame) -> int | None:
    """Presentation time of a frame in units of the stream's time base; AVI has decoding times only."""
    return frame.pts if frame.pts is not None else frame.dts


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
