"""Encode: write h264/AAC mp4 files and audio files.

Files appear whole or not at all: bytes go to `<name>.partial`, which takes the final name when everything is written.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tasks.media.video import LUMA_RED_BLUE

AAC_BITS_PER_S = 128_000
BT601_CODE, BT709_CODE = 6, 1  # ITU-T H.273: the same number names primaries, transfer and matrix
LIMITED_RANGE = 1


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """Size, rate and quality of a video file.

    Attributes:
        width_px, height_px: even numbers, as 4:2:0 chroma demands.
        fps: frames per second, exact.
        audio_rate_hz: sample rate of the audio stream, None for a file without one.
        crf: x264 quality, 0 lossless .. 51.
        preset: x264 preset, 'ultrafast' .. 'veryslow'.
        audio_start_s: time of the first audio sample; above 0 the audio stream starts late by its timestamps (by
            up to 1024 samples of silence less: the priming of AAC).
        metadata: tags of the file, such as 'comment'.
    """

    width_px: int
    height_px: int
    fps: Fraction
    audio_rate_hz: int | None = None
    crf: int = 20
    preset: str = "ultrafast"
    audio_start_s: float = 0.0
    metadata: Mapping[str, str] = field(default_factory=dict)


class VideoWriter:
    """One mp4 of constant frame rate: h264 yuv420p, closed GOPs, index in front; optionally one mono AAC stream.

    Frame i is shown at i/fps, sample j belongs to audio_start_s + j/audio_rate_hz. Colour is limited range, BT.601
    below 720 rows and BT.709 from 720 on, and tagged so. One encoder thread: the same input gives the same bytes on
    every machine with the same PyAV.

    Args:
        path: final name; exists only after a `with` block that ended without an exception.
        form: size, rate and quality.

    Raises:
        ValueError: odd or empty frame size, no frame rate, negative audio start, audio start without audio.
    """

    def __init__(self, path: Path, form: VideoFormat) -> None:
        width, height, rate_hz, start_s = form.width_px, form.height_px, form.audio_rate_hz, form.audio_start_s
        if width <= 0 or height <= 0 or width % 2 or height % 2:
            raise ValueError(f"{path}: frame size {width}x{height} must be even and positive for 4:2:0 video")
        if form.fps <= 0:
            raise ValueError(f"{path}: {form.fps} frames per second")
        if not math.isfinite(start_s) or start_s < 0 or (start_s > 0 and rate_hz is None):
            raise ValueError(f"{path}: audio_start_s={start_s} needs an audio stream and a value >= 0")
        self._path, self._shape, self._fps = path, (height, width), Fraction(form.fps)
        self._color = BT709_CODE if height >= 720 else BT601_CODE
        self._num_frames = 0
        self._container = av.open(str(_partial(path)), "w", format="mp4", options=_mp4_options(rate_hz))
        self._container.metadata.update(form.metadata)
        options = {"crf": str(form.crf), "preset": form.preset, "flags": "+cgop", "threads": "1"}
        self._video = self._container.add_stream("libx264", rate=self._fps, options=options)
        self._video.height, self._video.width = self._shape
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = 1 / self._fps
        context: Any = self._video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = self._color
        context.color_range = LIMITED_RANGE
        self._audio = _AudioEncoder(self._container, "aac", rate_hz, start_s) if rate_hz else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _finish(self._container, self._path, self._flush if kind is None else None)

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return self._num_frames

    def write_frame(self, rgb: NDArray[np.uint8]) -> None:
        """Append one [H, W, 3] RGB uint8 frame."""
        self.write_yuv(*rgb_to_yuv420(rgb, is_bt709=self._color == BT709_CODE))

    def write_yuv(self, y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> None:
        """Append one frame given as limited-range I420 planes: y [H, W], u and v [H/2, W/2] uint8.

        Raises:
            ValueError: a plane has another shape or dtype.
        """
        height, width = self._shape
        frame = VideoFrame(width, height, "yuv420p")
        half = (height // 2, width // 2)
        for plane, values, shape in zip(frame.planes, (y, u, v), (self._shape, half, half), strict=True):
            if values.shape != shape or values.dtype != np.uint8:
                found = f"{values.dtype}{values.shape}"
                raise ValueError(f"{self._path}: expected a uint8 plane of shape {shape}, found {found}")
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: shape[0], : shape[1]] = values  # pyright: ignore[reportArgumentType, reportCallIssue]
        frame.pts, frame.time_base = self._num_frames, 1 / self._fps
        self._container.mux(self._video.encode(frame))
        self._num_frames += 1

    def write_audio(self, samples: NDArray[np.float32]) -> None:
        """Append mono samples: [n] float32 in [-1, 1].

        Raises:
            ValueError: the file was opened without an audio stream, or the samples are not [n].
        """
        if self._audio is None:
            raise ValueError(f"{self._path}: no audio stream; set audio_rate_hz")
        self._audio.write(samples)

    def _flush(self) -> None:
        if not self._num_frames:
            raise ValueError(f"{self._path}: no frame was written")
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._audio.flush()


def write_audio_file(path: Path, samples: NDArray[np.float32], rate_hz: int) -> None:
    """Write mono [n] float32 samples in [-1, 1] as `.m4a` (AAC) or `.wav` (16-bit PCM).

    Raises:
        ValueError: another suffix, or samples that are not [n].
    """
    formats = {".m4a": ("mp4", "aac"), ".wav": ("wav", "pcm_s16le")}
    if path.suffix not in formats:
        raise ValueError(f"{path}: cannot write {path.suffix!r} audio; use one of {', '.join(formats)}")
    container_format, codec = formats[path.suffix]
    options = _mp4_options(rate_hz) if codec == "aac" else {"fflags": "+bitexact"}
    container = av.open(str(_partial(path)), "w", format=container_format, options=options)
    stream = _AudioEncoder(container, codec, rate_hz)

    def write() -> None:
        stream.write(samples)
        stream.flush()

    _finish(container, path, write)


def rgb_to_yuv420(
    rgb: NDArray[np.uint8], *, is_bt709: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """RGB [H, W, 3] uint8 (H, W even) -> limited-range planes y [H, W], u and v [H/2, W/2] uint8.

    Chroma is the mean over 2x2 pixels. Matrix: BT.709 or BT.601 (ITU-R).
    """
    red, blue = LUMA_RED_BLUE["bt709" if is_bt709 else "bt601"]
    luma = np.array([red, 1 - red - blue, blue])
    gains_u = (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - blue))
    gains_v = (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - red))
    # [3, 4]: (R, G, B, 1) in 0..255 -> limited-range (Y, U, V).
    rows = np.column_stack([np.stack([luma * 219, gains_u * 224, gains_v * 224]) / 255, [16.0, 128.0, 128.0]])
    height, width = rgb.shape[:2]
    half = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    y = cv2.transform(rgb, rows[:1])
    u, v = cv2.transform(half, rows[1:2]), cv2.transform(half, rows[2:])
    return y.reshape(height, width), u.reshape(half.shape[:2]), v.reshape(half.shape[:2])  # pyright: ignore[reportReturnType]


class _AudioEncoder:
    """One mono stream of a container; sample j belongs to start_s + j/rate_hz."""

    def __init__(self, container: OutputContainer, codec: str, rate_hz: int, start_s: float = 0.0) -> None:
        self._container, self._rate_hz = container, rate_hz
        self._stream = cast(AudioStream, container.add_stream(codec, rate=rate_hz, layout="mono"))
        if codec == "aac":
            self._stream.bit_rate = AAC_BITS_PER_S
        self._pts = round(start_s * rate_hz)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append samples [n] float32 in [-1, 1]."""
        if samples.ndim != 1:
            raise ValueError(f"expected mono samples of shape [n], found {samples.shape}")
        if not len(samples):
            return
        planar = np.ascontiguousarray(np.clip(samples, -1.0, 1.0), np.float32)[None]
        frame = AudioFrame.from_ndarray(planar, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate_hz, self._pts, Fraction(1, self._rate_hz)
        self._container.mux(self._stream.encode(frame))
        self._pts += len(samples)

    def flush(self) -> None:
        """Write the samples that the encoder still holds."""
        self._container.mux(self._stream.encode(None))


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _mp4_options(audio_rate_hz: int | None) -> dict[str, str]:
    """Index first, no version stamps; a movie timescale in which a late audio start is exact to the sample."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    return options | ({"movie_timescale": str(audio_rate_hz)} if audio_rate_hz else {})


def _finish(container: OutputContainer, path: Path, flush: Callable[[], None] | None) -> None:
    """Write the rest (`flush`) and give the file its name; on any error, or without `flush`, remove it."""
    partial = _partial(path)
    try:
        if flush is not None:
            flush()
            container.close()
            partial.replace(path)
    finally:
        try:
            container.close()  # writes what is left, which fails again when the disk is full
        finally:
            partial.unlink(missing_ok=True)
