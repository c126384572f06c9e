"""Builders of small media files for tests, ordinary and odd, written with PyAV; and FFmpeg's own fps filter."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import av.filter
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Audio:
    """Audio of a file: samples [channels, n] float32."""

    samples: NDArray[np.float32]
    rate_hz: int = 48_000
    codec: str = "aac"
    layout: str = "mono"
    start_s: float = 0.0
    format: str = "fltp"


def image(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """RGB [height, width, 3]: smooth colours that drift with `index`, no two alike within 60."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    phase = 2 * np.pi * index / 61
    waves = [np.sin(3 * x + phase), np.cos(4 * y - 2 * phase), np.sin(5 * x * y + 3 * phase)]
    return np.stack([127.5 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def write_video(
    path: Path,
    frames: int | Sequence[NDArray[np.uint8]] = 50,
    *,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: Fraction | int = 25,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    audio: Audio | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,
    movflags: str | None = None,
    matrix: Sequence[int] | None = None,
    cover: bool = False,
) -> Path:
    """Writes RGB frames (or `frames` generated ones) as video; `pts` in units of `time_base` make it irregular."""
    width, height = size
    images = [image(i, width, height) for i in range(frames)] if isinstance(frames, int) else frames
    base = time_base or Fraction(1, 1) / fps
    with av.open(str(path), "w", format=container, options={"movflags": movflags} if movflags else {}) as out:
        video = out.add_stream(codec, rate=Fraction(fps), options=options or {})
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = base
        video.time_base = base
        if matrix is not None:
            video.set_display_matrix(list(matrix))
        audio_stream = _add_audio(out, audio) if audio else None
        art = _add_cover(out) if cover else None
        for index, rgb in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = (index if pts is None else pts[index]), base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio:
            _encode_audio(out, audio_stream, audio)
        if art:
            _write_cover(out, art)
    return path


def write_audio_only(path: Path, audio: Audio, container: str | None = None, cover: bool = False) -> Path:
    """Writes an audio-only file, with a cover image attached when asked."""
    with av.open(str(path), "w", format=container) as out:
        stream = _add_audio(out, audio)
        art = _add_cover(out) if cover else None
        if art:
            _write_cover(out, art)
        _encode_audio(out, stream, audio)
    return path


def tone(
    seconds: float, rate_hz: int = 48_000, channels: int = 1, hz: float = 440.0, level: float = 0.5
) -> NDArray[np.float32]:
    """[channels, n] sine, the same in every channel."""
    wave = level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)
    return np.repeat(wave[None].astype(np.float32), channels, axis=0)


def png_bomb(path: Path, side: int, declared: int = 64) -> Path:
    """A movie of one PNG of side x side RGB zeros, a few hundred kB, whose container declares a small image."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    squeeze = zlib.compressobj(1)
    rows = b"".join([squeeze.compress(bytes(1 + 3 * side)) for _ in range(side)]) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with av.open(str(path), "w", format="mov") as out:
        video = out.add_stream("png", rate=25)
        video.width = video.height = declared
        video.pix_fmt = "rgb24"
        packet = av.Packet(data)
        packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = video, 0, 0, Fraction(1, 25), True
        out.mux(packet)
    return path


def truncated(source: Path, target: Path, share: float) -> Path:
    """The first `share` of the bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def rotten(source: Path, target: Path, seed: int, num_bytes: int, start: float, stop: float) -> Path:
    """Random bytes written at random places within a part of the file."""
    data = bytearray(source.read_bytes())
    random = np.random.default_rng(seed)
    for place in random.integers(int(start * len(data)), int(stop * len(data)), num_bytes):
        data[place] = random.integers(256)
    target.write_bytes(data)
    return target


def fps_filter(path: Path) -> list[tuple[int, str]]:
    """(slot, hash of the Y plane) of every frame that libavfilter's `fps=25` makes of the file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream, time_base=stream.time_base)
        rate, sink = graph.add("fps", "25"), graph.add("buffersink")
        graph.link_nodes(source, rate, sink).configure()
        out: list[tuple[int, str]] = []
        for frame in container.decode(stream):
            graph.push(frame)
            out += _pulled(graph)
        graph.push(None)
        return out + list(_pulled(graph))


def plane_hash(plane: NDArray[np.uint8]) -> str:
    """Hash of a plane's pixels, whatever its strides."""
    return hashlib.sha1(np.ascontiguousarray(plane).tobytes()).hexdigest()


def _pulled(graph: av.filter.Graph) -> Iterator[tuple[int, str]]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        plane = frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        assert frame.time_base == Fraction(1, 25)
        yield frame.pts, plane_hash(rows)


def _add_audio(out, audio: Audio):
    stream = out.add_stream(audio.codec, rate=audio.rate_hz, layout=audio.layout)
    stream.codec_context.format = audio.format
    return stream


def _encode_audio(out, stream, audio: Audio) -> None:
    packed = audio.samples if audio.format.endswith("p") else audio.samples.T.reshape(1, -1)
    if not audio.format.startswith(("flt", "dbl")):
        packed = {"s16": lambda x: x * 32767, "s32": lambda x: x * 2147483520.0, "u8": lambda x: x * 127 + 128}[
            audio.format.removesuffix("p")
        ](packed.astype(np.float64))
    types = {"flt": np.float32, "dbl": np.float64, "s16": np.int16, "s32": np.int32, "u8": np.uint8}
    data = np.ascontiguousarray(packed.astype(types[audio.format.removesuffix("p")]))
    frame = av.AudioFrame.from_ndarray(data, format=audio.format, layout=audio.layout)
    frame.sample_rate, frame.time_base = audio.rate_hz, Fraction(1, audio.rate_hz)
    frame.pts = round(audio.start_s * audio.rate_hz)
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _add_cover(out):
    art = out.add_stream("mjpeg", rate=1)
    art.width = art.height = 32
    art.pix_fmt = "yuvj420p"
    art.disposition = av.stream.Disposition.attached_pic
    return art


def _write_cover(out, art) -> None:
    frame = av.VideoFrame.from_ndarray(image(0, 32, 32), format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    out.mux(art.encode(frame))
