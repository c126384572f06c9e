"""Audio: read tracks as 16-kHz mono on the time axis of their container, and cut them by video slots."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av.error
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from numpy.typing import NDArray

from storage.errors import Reason, Rejected
from storage.timelaw import SAMPLE_RATE_HZ, num_samples
from tasks.media.container import (
    AUDIO_FORMATS,
    DEFAULT_LIMITS,
    MediaLimits,
    open_media,
    presentation_time,
    read_through,
    time_base,
)

GAP_S = 0.02  # half a video frame: smaller steps of the audio clock are jitter of the container's timestamps
SILENCE_PEAK = 1e-3  # -60 dB full scale
_BLOCK_FRAMES = 64
_SAMPLE_TYPES = {
    "u8": (np.dtype(np.uint8), 128.0), "s16": (np.dtype(np.int16), 32768.0), "s32": (np.dtype(np.int32), 2147483648.0),
    "s64": (np.dtype(np.int64), 2.0**63), "flt": (np.dtype(np.float32), 1.0), "dbl": (np.dtype(np.float64), 1.0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """A whole audio track.

    Attributes:
        samples: [n] float32 mono 16 kHz in [-1, 1].
        start_s: container time of sample 0.
        is_silent: no sample reaches SILENCE_PEAK.
    """

    samples: NDArray[np.float32]
    start_s: float
    is_silent: bool


def read_audio(path: Path, limits: MediaLimits = DEFAULT_LIMITS) -> AudioTrack | None:
    """Decodes the first audio track to 16-kHz mono: channels averaged, soxr HQ, gaps filled with silence.

    Formats that FFmpeg's whitelisted demuxers cannot open are left to librosa, when libsndfile can open them.

    Returns:
        None when the file has no audio stream.

    Raises:
        Rejected: EMPTY, NOT_MEDIA, TRUNCATED, TOO_LARGE, UNSUPPORTED_CODEC, TIMEOUT, UNSAFE_PATH.
        OSError: the file is missing or cannot be read.
    """
    try:
        with open_media(path, AUDIO_FORMATS, limits) as container:
            if not container.streams.audio:
                return None
            pieces, start_s = _decoded(container, container.streams.audio[0], path, limits)
    except Rejected as rejection:
        samples = _librosa_samples(path, limits) if rejection.reason is Reason.NOT_MEDIA else None
        if samples is None:
            raise
        pieces, start_s = [samples], 0.0
    samples = np.concatenate([np.empty(0, np.float32), *pieces])
    np.clip(samples, -1.0, 1.0, out=samples)  # the filter overshoots at full scale
    return AudioTrack(samples, start_s, not bool((np.abs(samples) >= SILENCE_PEAK).any()))


def cut_audio(track: AudioTrack, first_slot: int, num_slots: int) -> NDArray[np.float32]:
    """Samples of `num_slots` slots: [640 * num_slots] float32, the first for time first_slot/25 s; zero outside."""
    start = num_samples(first_slot) - round(track.start_s * SAMPLE_RATE_HZ)
    out = np.zeros(num_samples(num_slots), np.float32)
    first, last = max(start, 0), min(start + len(out), len(track.samples))
    if first < last:
        out[first - start : last - start] = track.samples[first:last]
    return out


def _decoded(
    container: InputContainer, stream: AudioStream, path: Path, limits: MediaLimits
) -> tuple[list[NDArray[np.float32]], float]:
    """Pieces of the track at 16 kHz, and the container time at which the first begins."""
    if cast(object, stream.codec_context) is None:
        raise Rejected(Reason.UNSUPPORTED_CODEC, f"{path}: no decoder for its audio")
    stream.codec_context.thread_type = "NONE"
    track = _TrackBuilder(path, limits)
    deadline_s = time.monotonic() + limits.max_wall_s
    for frame in _frames(container, stream, path):
        pts = presentation_time(frame)
        track.push(_mono(frame), frame.sample_rate, None if pts is None else pts * time_base(stream))
        if time.monotonic() > deadline_s:
            raise Rejected(Reason.TIMEOUT, f"{path}: decoding audio took longer than {limits.max_wall_s:g} s")
    # Encoder delay that an MP3 header declares is cut off, not shifted in: its first sample belongs to time 0.
    is_late = container.format.name != "mp3"
    return track.finish(), float(track.start_s) if is_late else 0.0


def _frames(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[AudioFrame]:
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
            read_through(path)


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
    """Places chunks of one audio track by their timestamps and resamples them to 16 kHz in passing.

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
        """Appends samples whose first one belongs to `time_s` (None: right after the ones before)."""
        if rate_hz != self._rate_hz:
            self._start_segment(rate_hz, time_s)
        gap = 0 if time_s is None else round((time_s - self._segment_s) * rate_hz) - self._position
        if abs(gap) > GAP_S * rate_hz:
            if (self._position + gap) / rate_hz > self._max_s:
                raise Rejected(Reason.TOO_LARGE, f"{self._path}: its audio spans more than {self._max_s:g} s")
            self._append(np.zeros(max(gap, 0), np.float32))
            samples = samples[max(-gap, 0) :]
        self._append(samples)

    def finish(self) -> list[NDArray[np.float32]]:
        """All samples at 16 kHz, in pieces."""
        self._flush(is_last=True)
        return self._out

    def _start_segment(self, rate_hz: int, time_s: Fraction | None) -> None:
        """Ends what was resampled from another rate; the first segment sets the start of the track."""
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
            raise Rejected(Reason.TOO_LARGE, f"{self._path}: more than {self._max_s:g} s of audio")
        self._pending.append(samples)
        if len(self._pending) >= _BLOCK_FRAMES:
            self._flush(is_last=False)

    def _flush(self, is_last: bool) -> None:
        block = np.concatenate(self._pending) if self._pending else np.empty(0, np.float32)
        self._pending.clear()
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block, last=is_last)
        self._out.append(cast(NDArray[np.float32], block))


def _librosa_samples(path: Path, limits: MediaLimits) -> NDArray[np.float32] | None:
    """Samples [n] of a format that only libsndfile can open, None when it cannot either."""
    import soundfile

    try:
        with path.open("rb") as file, soundfile.SoundFile(file) as opened:
            if opened.frames > limits.max_seconds * opened.samplerate:
                raise Rejected(Reason.TOO_LARGE, f"{path}: more than {limits.max_seconds:g} s of audio")
            import librosa

            # An open SoundFile, not the name: librosa would hand an unknown file to any ffmpeg program it finds.
            samples, _ = librosa.load(opened, sr=SAMPLE_RATE_HZ, mono=True)
    except (soundfile.SoundFileError, ValueError, RuntimeError):
        return None
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
