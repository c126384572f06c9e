"""Reading media: slots against FFmpeg's fps filter, audio against closed forms, upright frames, colour tags."""

import os
import tracemalloc
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from storage.errors import Reason, Rejected
from tasks.media.audio import cut_audio, read_audio
from tasks.media.container import MediaLimits
from tasks.media.video import YuvColor, iter_slots, probe
from tests.media_samples import Audio, fps_filter, image, plane_hash, tone, write_video

ONE = 1 << 16
TURNS = {  # display matrix (a, b, c, d) -> how the upright frame comes from the stored one
    "90": ((0, ONE, -ONE, 0), lambda image: np.rot90(image, -1)),
    "180": ((-ONE, 0, 0, -ONE), lambda image: np.rot90(image, 2)),
    "270": ((0, -ONE, ONE, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda image: image[:, ::-1]),
    "upside down": ((ONE, 0, 0, -ONE), lambda image: image[::-1]),
    "mirrored 90": ((0, ONE, ONE, 0), lambda image: image.swapaxes(0, 1)),
}


def slots(path, **limits):
    return [
        (frame.slot, plane_hash(frame.y), frame.is_repeat) for frame in iter_slots(path, MediaLimits(**limits))
    ]  # fmt: skip


def assert_like_fps_filter(path):
    expected = fps_filter(path)
    found = slots(path)
    assert [(slot, pixels) for slot, pixels, _ in found] == expected
    assert all(pixels == before for (_, before, _), (_, pixels, is_repeat) in pairwise(found) if is_repeat)
    assert all(b[0] == a[0] + 1 for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("name", "num_slots"),
    [
        ("noface_256_10fps.mp4", 1145),
        ("cropped_256_24fps_fastmotion.mov", 465),
        ("cropped_256_30fps_noaudio.mp4", 324),
        ("head_shoulders_450_25fps.mp4", 500),
        ("cropped_256_25fps_60s.mp4", 1499),
    ],
)
def test_real_clips_give_the_frames_of_the_fps_filter(media, name, num_slots):
    assert_like_fps_filter(media / name)
    assert len(slots(media / name)) == num_slots


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_gives_the_frames_of_the_fps_filter(tmp_path, suffix):
    steps = np.random.default_rng(0).integers(5, 120, 60)
    pts = (np.cumsum(steps) - steps[0]).tolist()
    path = write_video(tmp_path / f"vfr.{suffix}", 60, pts=pts, time_base=Fraction(1, 1000))
    assert_like_fps_filter(path)
    assert probe(path).is_variable_rate or suffix == "mkv"  # whose header names one rate
    assert abs(len(slots(path)) - round(pts[-1] / 1000 * 25)) <= 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("has_audio", [False, True])
def test_late_first_frame_keeps_its_time(tmp_path, suffix, has_audio):
    audio = Audio(tone(3.0)) if has_audio else None
    pts = [27 + 2 * i for i in range(60)]
    path = write_video(tmp_path / f"late.{suffix}", 60, pts=pts, time_base=Fraction(1, 60), audio=audio)
    assert_like_fps_filter(path)
    assert slots(path)[0][0] == 11
    assert probe(path).video_start_s == pytest.approx(0.45, abs=1e-3)


@pytest.mark.parametrize("fps", [Fraction(25, 2), 24, Fraction(30000, 1001), 50, 60, 120])
def test_constant_rates_give_the_frames_of_the_fps_filter(tmp_path, fps):
    assert_like_fps_filter(write_video(tmp_path / "rate.mp4", 61, fps=fps))


def test_halves_round_up_at_50_fps(tmp_path):
    path = write_video(tmp_path / "fifty.mp4", 10, fps=50)
    with av.open(str(path)) as container:
        inputs = [plane_hash(np.frombuffer(f.planes[0], np.uint8).reshape(48, -1)[:, :64]) for f in container.decode()]
    # Slot k shows the last frame i with floor(i/2 + 1/2) <= k: 0, 2, 4, ...
    assert [pixels for _, pixels, _ in slots(path)] == inputs[::2]


def test_one_frame_is_one_slot(tmp_path):
    found = slots(write_video(tmp_path / "one.mp4", 1))
    assert [(slot, is_repeat) for slot, _, is_repeat in found] == [(0, False)]


def test_probe_tells_the_file(media):
    info = probe(media / "head_shoulders_450_25fps.mp4")
    assert (info.width_px, info.height_px, info.declared_frames, info.codec) == (450, 450, 500, "h264")
    assert (info.avg_fps, info.is_variable_rate, info.duration_s, info.rotation_deg) == (25.0, False, 20.0, 0)
    assert (info.has_audio, info.audio_codec, info.audio_rate_hz, info.audio_channels) == (True, "aac", 48_000, 2)
    assert probe(media / "portrait_1080x1920_30fps_hevc.mp4").color == YuvColor("bt709", is_full_range=False)
    assert probe(media / "cropped_256_25fps_60s.mp4").color == YuvColor("bt601", is_full_range=True)
    assert not probe(media / "noface_256_10fps.mp4").has_audio


def test_constant_memory_and_no_held_frames(media):
    path = media / "head_shoulders_450_25fps.mp4"
    info = probe(path)
    addresses = {frame.y.__array_interface__["data"][0] for frame in iter_slots(path, info=info)}
    assert len(addresses) < 40, "frames of the decoder's pool must come back to it"
    tracemalloc.start()
    for _ in iter_slots(path, info=info):
        pass
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_upright(tmp_path, turn):
    (a, b, c, d), upright = TURNS[turn]
    images = [image(i, 64, 48) for i in range(5)]
    lossless = {"crf": "0", "preset": "ultrafast"}
    turned = write_video(tmp_path / "t.mp4", images, matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30], options=lossless)
    plain = write_video(tmp_path / "p.mp4", images, options=lossless)
    info = probe(turned)
    assert (info.height_px, info.width_px) == upright(images[0]).shape[:2]
    assert info.is_mirrored == ("mirrored" in turn or "upside" in turn)
    if not info.is_mirrored:
        assert info.rotation_deg == int(turn)
    for found, expected in zip(iter_slots(turned), iter_slots(plain), strict=True):
        for name in "yuv":
            np.testing.assert_array_equal(getattr(found, name), upright(getattr(expected, name)))


def test_rotation_agrees_with_pyav(tmp_path):
    path = write_video(tmp_path / "r.mp4", 2, matrix=[0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30])
    with av.open(str(path)) as container:
        assert (-next(container.decode(video=0)).rotation) % 360 == probe(path).rotation_deg == 90


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix", "size"),
    [
        ("libx264", "yuv420p10le", "mp4", (64, 48)),
        ("libx264", "yuv444p", "mp4", (64, 48)),
        ("libx264", "nv12", "mp4", (64, 48)),
        ("libx265", "yuv420p", "mp4", (64, 48)),
        ("libx265", "yuv420p10le", "mkv", (64, 48)),
        ("libvpx-vp9", "yuv420p", "webm", (64, 48)),
        ("libsvtav1", "yuv420p", "mp4", (64, 64)),
        ("mpeg4", "yuv420p", "avi", (64, 48)),
        ("mjpeg", "yuvj420p", "mov", (64, 48)),
        ("mjpeg", "yuvj444p", "mov", (64, 48)),
        ("ffv1", "yuv422p", "mkv", (451, 333)),
        ("ffv1", "yuv420p", "mkv", (451, 333)),
        ("ffv1", "bgr0", "mkv", (64, 48)),
        ("libx264", "yuv420p", "mp4", (450, 1080)),
        ("libx264rgb", "rgb24", "mp4", (64, 48)),
    ],
)
def test_codecs_and_pixel_formats_give_the_same_image(tmp_path, codec, pix_fmt, suffix, size):
    drawn = image(3, *size)
    path = write_video(tmp_path / f"v.{suffix}", [drawn] * 5, codec=codec, pix_fmt=pix_fmt, size=size)
    info = probe(path)
    assert (info.width_px, info.height_px) == size
    num = 0
    for frame in iter_slots(path, info=info):
        num += 1
        assert frame.y.shape == size[::-1]
        assert frame.u.shape == frame.v.shape == ((size[1] + 1) // 2, (size[0] + 1) // 2)
        assert not frame.is_corrupt
        assert np.abs(rgb_of(frame) - drawn).mean() < 5.0
    assert num == 5


def rgb_of(frame):
    """Plain float conversion with nearest chroma, BT.601."""
    assert frame.color.matrix == "bt601"
    y, u, v = (plane.astype(np.float64) for plane in (frame.y, frame.u, frame.v))
    u, v = (np.kron(plane, np.ones((2, 2)))[: y.shape[0], : y.shape[1]] - 128 for plane in (u, v))
    if not frame.color.is_full_range:
        y, u, v = (y - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)
    return np.clip(rgb, 0, 255)


@pytest.mark.parametrize("name", ["mp4 in mkv.mp4", "none", "a:b #1%20?'\".mp4", "-x\n.mkv", "ünï 😀.mp4"])
def test_format_is_found_by_content_whatever_the_name(tmp_path, name, monkeypatch):
    made = write_video(tmp_path / "made.mkv", 5)
    made.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(Path(name)).container == "matroska,webm"
    assert len(slots(Path(name))) == 5


def test_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    write_video(tmp_path / "made.mp4", 5).rename(name)
    assert len(slots(Path(name))) == 5


def test_rejected_reports_reason_and_file(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(Rejected, match=r"empty\.mp4") as caught:
        probe(path)
    assert caught.value.reason is Reason.EMPTY


# ---- together with the audio -----------------------------------------------------------------------------------------


def flash_and_beep(path, audio_start_s, video_start=0, fps=30):
    """White frames and a beep at 1.2 s, 2.0 s and 2.8 s of the container's time."""
    times = np.arange(4 * fps) / fps + video_start / fps
    events = [1.2, 2.0, 2.8]
    is_lit = [any(0 <= t - event < 0.0999 for event in events) for t in times + 1e-9]
    images = [np.full((48, 64, 3), 235 if lit else 16, np.uint8) for lit in is_lit]
    clock = np.arange(round(3.5 * 48_000)) / 48_000 + audio_start_s
    beeps = sum(((clock >= event) & (clock < event + 0.1)).astype(float) for event in events)
    samples = (0.7 * beeps * np.sin(2 * np.pi * 1000 * clock))[None].astype(np.float32)
    pts = [video_start + i for i in range(len(images))]
    return write_video(path, images, fps=fps, pts=pts, audio=Audio(samples, start_s=audio_start_s), options={"bf": "2"})


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(("audio_start_s", "video_start"), [(0.0, 0), (0.48, 0), (0.0, 13), (0.25, 7)])
def test_flash_and_beep_stay_together(tmp_path, suffix, audio_start_s, video_start):
    path = flash_and_beep(tmp_path / f"av.{suffix}", audio_start_s, video_start)
    frames = [(frame.slot, frame.y.mean() > 100) for frame in iter_slots(path)]
    track = read_audio(path)
    assert track is not None
    first, num = frames[0][0], len(frames)
    power = np.abs(cut_audio(track, first, num).reshape(num, 640)).max(axis=1) > 0.2
    lit = np.array([is_lit for _, is_lit in frames])
    flash_starts = np.flatnonzero(np.diff(lit.astype(int)) == 1) + 1
    beep_starts = np.flatnonzero(np.diff(power.astype(int)) == 1) + 1
    assert len(flash_starts) == len(beep_starts) == 3
    assert np.abs(flash_starts - beep_starts).max() <= 1
    assert np.abs((flash_starts + first) / 25 - [1.2, 2.0, 2.8]).max() <= 0.04
    # The audio's own time is far finer than a frame.
    onsets = np.flatnonzero(np.abs(track.samples) > 0.2)
    onset = onsets[0] / 16_000 + track.start_s
    assert onset == pytest.approx(1.2, abs=0.002)
