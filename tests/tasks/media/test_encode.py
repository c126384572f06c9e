"""Files written by tasks.media.encode, read back with PyAV: frames, times, colours, and where the audio lies."""

import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tasks.media.encode import VideoFormat, VideoWriter, rgb_to_yuv420, write_audio_file

RATE_HZ = 48_000


def chirp(duration_s: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Audio whose correlation with itself has one sharp peak."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.4 * np.sin(2 * np.pi * (200 * t + 300 * t * t)) * (0.6 + 0.4 * np.sin(6 * np.pi * t))).astype(np.float32)


def images(count: int, height: int = 96, width: int = 130) -> list[np.ndarray]:
    """Frames whose left part, 4 columns wider per frame, is blue on red: the frame number can be read off."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:] = (200, 60, 30)
    for index, frame in enumerate(frames):
        frame[:, : 4 * index + 4] = (20, 90, 220)
    return list(frames)


def write(path: Path, frames: list[np.ndarray], fps: Fraction, audio: np.ndarray | None = None, **options) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, VideoFormat(width, height, fps, None if audio is None else RATE_HZ, **options)) as writer:
        for frame in frames:
            writer.write_frame(frame)
        for block in [] if audio is None else np.array_split(audio, 7):
            writer.write_audio(block)
    return path


def decode_audio(path: Path) -> tuple[np.ndarray, Fraction]:
    """Samples and the container time of the first."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray().astype(np.float32).reshape(-1) for frame in frames])
    if frames[0].format.name.startswith("s16"):
        samples /= 32768
    return samples, frames[0].pts * frames[0].time_base


def lag_and_correlation(audio: np.ndarray, decoded: np.ndarray, start: Fraction, rate_hz: int) -> tuple[float, float]:
    """Container time in s at which audio[0] is heard, and the correlation there."""
    size = 1 << (len(audio) + len(decoded)).bit_length()
    product = np.fft.irfft(np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(audio, size)), size)
    lag = int(np.argmax(product))
    lag -= size if lag > size // 2 else 0
    first, last = max(0, -lag), min(len(audio), len(decoded) - lag)
    return float(start) + lag / rate_hz, float(np.corrcoef(audio[first:last], decoded[first + lag : last + lag])[0, 1])


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30), Fraction(30000, 1001)])
@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_every_frame_comes_back_in_order_at_its_time(tmp_path, fps, preset):
    path = write(tmp_path / "a.mp4", images(31), fps, preset=preset, crf=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, stream.frames, len(container.streams)) == (fps, 31, 1)
        frames = list(container.decode(stream))
    assert [frame.pts * frame.time_base for frame in frames] == [index / fps for index in range(31)]
    blue = [np.count_nonzero(frame.to_ndarray(format="rgb24")[40, :, 2] > 125) for frame in frames]
    assert np.abs(np.array(blue) - 4 * np.arange(1, 32)).max() <= 1


@pytest.mark.parametrize(("height", "code"), [(96, 6), (720, 1)])
def test_colours_survive_and_are_tagged(tmp_path, height, code):
    frames = images(2, height)
    with av.open(str(write(tmp_path / "a.mp4", frames, Fraction(25), crf=1))) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (code, code, code)
        assert context.color_range == 1
        shown = next(container.decode(video=0)).to_ndarray(
            format="rgb24", src_colorspace="ITU601" if code == 6 else "ITU709"
        )
    assert np.abs(shown[20, 100].astype(int) - (200, 60, 30)).max() <= 4


def test_planes_match_the_standards():
    """ITU-R BT.601 and BT.709, limited range: white, black, grey, and the primaries' luma."""
    for is_bt709, (red, green, blue) in ((False, (0.299, 0.587, 0.114)), (True, (0.2126, 0.7152, 0.0722))):
        for rgb, luma in (
            ((255, 255, 255), 1),
            ((0, 0, 0), 0),
            ((255, 0, 0), red),
            ((0, 255, 0), green),
            ((0, 0, 255), blue),
        ):
            y, u, v = rgb_to_yuv420(np.full((4, 6, 3), rgb, np.uint8), is_bt709=is_bt709)
            assert (y.shape, u.shape, v.shape) == ((4, 6), (2, 3), (2, 3))
            assert np.all(y == round(16 + 219 * luma))
            assert np.all(u == round(128 + 112 * (rgb[2] / 255 - luma) / (1 - blue)))
            assert np.all(v == round(128 + 112 * (rgb[0] / 255 - luma) / (1 - red)))


@pytest.mark.parametrize("start_s", [0.0, 0.01, 0.1234, 1.0])
def test_audio_is_heard_when_it_should_be(tmp_path, start_s):
    audio = chirp(2.0)
    path = write(tmp_path / "a.mp4", images(30), Fraction(25), audio, audio_start_s=start_s)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.codec_context.channels) == ("aac", RATE_HZ, 1)
        assert container.streams.video[0].start_time == 0
    heard_s, correlation = lag_and_correlation(audio, *decode_audio(path), RATE_HZ)
    assert abs(heard_s - start_s) <= 1 / RATE_HZ
    assert correlation > 0.999


def test_late_audio_starts_late(tmp_path):
    path = write(tmp_path / "a.mp4", images(30), Fraction(25), chirp(0.5), audio_start_s=0.5)
    assert 0.5 - 1024 / RATE_HZ - 1e-4 <= decode_audio(path)[1] <= 0.5


@pytest.mark.parametrize(("suffix", "codec", "tightness"), [(".m4a", "aac", 0.999), (".wav", "pcm_s16le", 0.999999)])
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_audio_files(tmp_path, suffix, codec, tightness, rate_hz):
    audio = chirp(1.5, rate_hz)
    path = tmp_path / f"a{suffix}"
    write_audio_file(path, audio, rate_hz)
    with av.open(str(path)) as container:
        assert (len(container.streams), container.streams.audio[0].codec_context.name) == (1, codec)
        assert container.streams.audio[0].rate == rate_hz
    decoded, start = decode_audio(path)
    assert len(audio) <= len(decoded) < len(audio) + (2048 if suffix == ".m4a" else 1)
    heard_s, correlation = lag_and_correlation(audio, decoded, start, rate_hz)
    assert (heard_s, correlation > tightness) == (0.0, True)


def test_index_comes_first(tmp_path):
    data = write(tmp_path / "a.mp4", images(5), Fraction(25)).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_same_input_same_bytes(tmp_path):
    paths = [write(tmp_path / name, images(20), Fraction(25), chirp(0.8)) for name in ("a.mp4", "b.mp4")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_nothing_remains_of_a_failed_file_and_the_old_one_stays(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def fail_midway():
        with VideoWriter(path, VideoFormat(130, 96, Fraction(25))) as writer:
            writer.write_frame(images(1)[0])
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_midway()
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])


def test_nothing_remains_when_even_the_end_cannot_be_written(tmp_path):
    """A full disk: the frame, and then the index when the file is closed."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(tmp_path / "a.mp4", list(noise), Fraction(25), crf=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_the_final_name_appears_only_at_the_end(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, VideoFormat(130, 96, Fraction(25))) as writer:
        writer.write_frame(images(1)[0])
        assert {entry.name for entry in tmp_path.iterdir()} <= {"a.mp4.partial"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width_px": 129}, "129x96 must be even"),
        ({"height_px": 0}, "130x0 must be even"),
        ({"fps": Fraction(0)}, "0 frames per second"),
        ({"audio_start_s": 1.0}, "needs an audio stream"),
        ({"audio_rate_hz": 16_000, "audio_start_s": -1.0}, "needs an audio stream and a value >= 0"),
    ],
)
def test_bad_settings_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        VideoWriter(
            tmp_path / "a.mp4", VideoFormat(**({"width_px": 130, "height_px": 96, "fps": Fraction(25)} | arguments))
        )
    assert not list(tmp_path.iterdir())


def test_bad_data_is_named(tmp_path):
    def use(action):
        with VideoWriter(tmp_path / "a.mp4", VideoFormat(130, 96, Fraction(25))) as writer:
            action(writer)

    with pytest.raises(ValueError, match=r"expected a uint8 plane of shape \(96, 130\), found uint8\(90, 130\)"):
        use(lambda writer: writer.write_frame(np.zeros((90, 130, 3), np.uint8)))
    with pytest.raises(ValueError, match="no audio stream"):
        use(lambda writer: writer.write_audio(np.zeros(10, np.float32)))
    with pytest.raises(ValueError, match="no frame was written"):
        use(lambda writer: None)
    with pytest.raises(ValueError, match=r"cannot write '\.ogg' audio"):
        write_audio_file(tmp_path / "a.ogg", np.zeros(10, np.float32), 16_000)
    with pytest.raises(ValueError, match=r"mono samples of shape \[n\]"):
        write_audio_file(tmp_path / "a.wav", np.zeros((2, 10), np.float32), 16_000)
    assert not list(tmp_path.iterdir())
