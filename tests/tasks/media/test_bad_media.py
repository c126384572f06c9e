"""Bad files: each ends in an answer or in `Rejected` with the right reason, opens nothing else and stays bounded."""

import multiprocessing
import os
import resource
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from storage.errors import Reason, Rejected
from tasks.media.audio import read_audio
from tasks.media.container import MediaLimits
from tasks.media.video import iter_slots, probe
from tests.media_samples import (
    Audio,
    fps_filter,
    plane_hash,
    png_bomb,
    rotten,
    tone,
    truncated,
    write_audio_only,
    write_video,
)

FUZZ_FILES = 200
FUZZ_SEED = 20_240
FUZZ_SECONDS = 120


def reason_of(function, *args):
    def run():
        result = function(*args)
        return list(result) if function is iter_slots else result

    with pytest.raises(Rejected) as caught:
        run()
    assert str(args[0]) in caught.value.detail, "the message must name the file"
    return caught.value.reason


def slots_until_rejected(path, limits=None):
    """(slots, reason or None): what is delivered before the verdict."""
    found = []
    try:
        for frame in iter_slots(path, limits or MediaLimits()):
            found.append((frame.slot, frame.is_corrupt, plane_hash(frame.y)))
    except Rejected as rejected:
        return found, rejected.reason
    return found, None


# ---- V-01, V-03, V-04: empty, foreign, cut off -----------------------------------------------------------------------


@pytest.mark.parametrize("function", [probe, iter_slots, read_audio])
def test_empty_file(tmp_path, function):
    path = tmp_path / "v.mp4"
    path.touch()
    assert reason_of(function, path) is Reason.EMPTY


JUNK = {
    "text": b"this is no video\n" * 100,
    "random": np.random.default_rng(3).bytes(5000),
    "one byte": b"\0",
    "zeros": bytes(10_000),
    "html": b"<!doctype html><html><body>404</body></html>",
    "zip": b"PK\x03\x04" + bytes(500),
}


@pytest.mark.parametrize("function", [probe, iter_slots, read_audio])
@pytest.mark.parametrize("kind", JUNK)
def test_files_that_are_no_media(tmp_path, kind, function):
    path = tmp_path / "v.mp4"
    path.write_bytes(JUNK[kind])
    assert reason_of(function, path) is Reason.NOT_MEDIA


def test_image_file_is_no_video(media):
    assert reason_of(probe, media / "portrait_photo_cropped.jpg") is Reason.NOT_MEDIA


@pytest.mark.parametrize("share", [0.05, 0.3, 0.67, 0.95])
def test_cut_off_with_the_index_at_the_end(media, tmp_path, share):
    path = truncated(media / "surprise_512_25fps_3s.mp4", tmp_path / "v.mp4", share)
    for function in (probe, iter_slots, read_audio):
        assert reason_of(function, path) is Reason.TRUNCATED


def test_cut_off_in_the_matroska_header(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", 10)
    path = tmp_path / "v.mkv"
    path.write_bytes(whole.read_bytes()[:40])
    assert reason_of(probe, path) is Reason.TRUNCATED


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("has_audio", [False, True])
def test_cut_off_fast_start_gives_its_whole_frames_then_truncated(tmp_path, suffix, has_audio):
    whole = write_video(
        tmp_path / f"whole.{suffix}",
        75,
        audio=Audio(tone(3.0), codec="libmp3lame" if suffix == "avi" else "aac") if has_audio else None,
        movflags="faststart" if suffix == "mp4" else None,
        options={"g": "25", "bf": "0"},
    )
    expected, _ = slots_until_rejected(whole)
    cut = truncated(whole, tmp_path / f"v.{suffix}", 0.67)
    found, reason = slots_until_rejected(cut)
    assert reason is Reason.TRUNCATED
    assert 20 < len(found) < 70
    assert found[:20] == expected[:20], "what lies before the cut can be used"
    assert probe(cut).codec == "h264"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
@pytest.mark.parametrize("audio_s", [1.0, 3.0, 5.0])
def test_whole_files_with_shorter_or_longer_audio_are_not_truncated(tmp_path, suffix, audio_s):
    audio = Audio(tone(audio_s), codec="libmp3lame" if suffix == "avi" else "aac")
    path = write_video(tmp_path / f"v.{suffix}", 75, audio=audio)
    found, reason = slots_until_rejected(path)
    assert reason is None
    assert abs(len(found) - 75) <= 1


def test_trimmed_by_an_edit_list_is_not_truncated(tmp_path):
    path = write_video(tmp_path / "v.mp4", 75, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    place = data.index(b"elst")
    assert struct.unpack(">I", data[place + 12 : place + 16])[0] == 3000
    data[place + 12 : place + 16] = struct.pack(">I", 1600)
    path.write_bytes(data)
    found, reason = slots_until_rejected(path)
    assert reason is None
    assert [(slot, pixels) for slot, _, pixels in found] == fps_filter(path)
    assert abs(len(found) - 40) <= 1


# ---- V-05: byte rot --------------------------------------------------------------------------------------------------


def test_byte_rot_marks_frames_and_moves_none(media, tmp_path):
    source = media / "head_shoulders_450_25fps.mp4"
    clean, _ = slots_until_rejected(source)
    found, reason = slots_until_rejected(rotten(source, tmp_path / "v.mp4", 7, 3, 0.3, 0.4))
    assert reason is None
    assert [slot for slot, _, _ in found] == [slot for slot, _, _ in clean]
    assert 1 <= sum(is_corrupt for _, is_corrupt, _ in found) < 50
    first_difference = next(i for i, (a, b) in enumerate(zip(clean, found, strict=True)) if a[2] != b[2])
    first_mark = next(i for i, (_, is_corrupt, _) in enumerate(found) if is_corrupt)
    assert abs(first_mark - first_difference) <= 5


def wipe_png_headers(path, indices):
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"\x89PNG"]
    for index in indices:
        data[starts[index] : starts[index] + 60] = bytes(60)
    path.write_bytes(data)


def test_lost_packets_mark_the_slots_they_leave(tmp_path):
    """Packets that cannot be decoded: their slots are filled and marked, later ones keep their time."""
    path = write_video(tmp_path / "v.mov", 50, codec="png", pix_fmt="rgb24")
    clean, _ = slots_until_rejected(path)
    wipe_png_headers(path, [20, 21])
    found, reason = slots_until_rejected(path)
    assert reason is None
    assert len(found) == len(clean) == 50
    marked = {slot for slot, is_corrupt, _ in found if is_corrupt}
    assert {20, 21} <= marked <= {19, 20, 21, 22}
    assert found[23:] == clean[23:]


def test_video_that_decodes_nowhere_is_corrupt(tmp_path):
    path = write_video(tmp_path / "v.mov", 20, codec="png", pix_fmt="rgb24")
    wipe_png_headers(path, range(20))
    assert reason_of(probe, path) is Reason.CORRUPT_FRAMES


def test_damaged_audio_keeps_its_time(media, tmp_path):
    source = media / "cropped_256_25fps_60s.mp4"
    whole = read_audio(source)
    damaged = read_audio(rotten(source, tmp_path / "v.mp4", 5, 200, 0.2, 0.8))
    assert whole is not None
    assert damaged is not None
    assert abs(len(whole.samples) - len(damaged.samples)) <= 16_000 * 0.05
    np.testing.assert_allclose(damaged.samples[-16_000:], whole.samples[-16_000:], atol=0.05)


# ---- V-06: streams that are missing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["m4a", "mka"])
def test_audio_only_has_no_video(tmp_path, suffix):
    path = write_audio_only(tmp_path / f"a.{suffix}", Audio(tone(1.0)), "matroska" if suffix == "mka" else None)
    assert reason_of(probe, path) is Reason.NO_VIDEO
    assert read_audio(path) is not None


def test_cover_image_is_no_video(tmp_path):
    path = write_audio_only(tmp_path / "a.m4a", Audio(tone(1.0)), "mp4", cover=True)
    with av.open(str(path)) as container:
        assert container.streams.video, "the sample must hold a cover"
    assert reason_of(probe, path) is Reason.NO_VIDEO
    assert reason_of(iter_slots, path) is Reason.NO_VIDEO
    assert read_audio(path) is not None


def test_video_beside_a_cover_is_found(tmp_path):
    path = write_video(tmp_path / "v.mp4", 10, cover=True)
    assert probe(path).width_px == 64
    assert len(slots_until_rejected(path)[0]) == 10


# ---- V-11, V-12: too much --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_pixels": 64 * 48 - 1}, Reason.TOO_LARGE),
        ({"max_seconds": 1.5}, Reason.TOO_LARGE),
        ({"max_frames": 49}, Reason.TOO_LARGE),
        ({"max_fps": 24.0}, Reason.TOO_LARGE),
        ({"max_streams": 1}, Reason.TOO_LARGE),
    ],
)
def test_limits(tmp_path, limits, reason):
    path = write_video(tmp_path / "v.mp4", 50, audio=Audio(tone(2.0)))
    assert reason_of(probe, path, MediaLimits(**limits)) is reason
    assert reason_of(iter_slots, path, MediaLimits(**limits)) is reason


def test_wall_time_is_bounded(tmp_path):
    path = write_video(tmp_path / "v.mp4", 50)
    info = probe(path)
    assert reason_of(iter_slots, path, MediaLimits(max_wall_s=1e-9), info) is Reason.TIMEOUT


def test_limits_hold_where_the_header_is_silent(tmp_path):
    path = write_video(tmp_path / "v.mkv", 50)
    found, reason = slots_until_rejected(path, MediaLimits(max_frames=30))
    assert reason is Reason.TOO_LARGE
    assert len(found) <= 30


def test_timestamps_with_a_giant_step_do_not_fill_the_disk(tmp_path):
    pts = [*range(20), *range(10**7, 10**7 + 20)]
    path = write_video(tmp_path / "v.mkv", 40, pts=pts, time_base=Fraction(1, 25))
    data = path.read_bytes().replace(b"DURATION", b"DURATIOX")
    place = data.index(b"\x44\x89\x88")  # Segment duration
    path.write_bytes(data[:place] + b"\xec\x89" + data[place + 2 :])
    assert probe(path).duration_s < 10
    _, reason = slots_until_rejected(path)
    assert reason is Reason.TOO_LARGE


def test_million_frames_per_second(tmp_path):
    path = write_video(tmp_path / "v.mp4", 30, pts=list(range(30)), time_base=Fraction(1, 1_000_000))
    assert reason_of(probe, path) is Reason.TOO_LARGE


def test_hundred_streams(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(100)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 8000, 0
            out.mux(stream.encode(frame))
    assert reason_of(probe, path) is Reason.TOO_LARGE


def test_endless_duration_in_the_header(tmp_path):
    path = write_video(tmp_path / "v.mp4", 50)
    data = bytearray(path.read_bytes())
    place = data.index(b"stts") + 12
    count, delta = struct.unpack(">II", data[place : place + 8])
    data[place : place + 8] = struct.pack(">II", count, delta * 100_000)
    for box, offset in ((b"mdhd", 20), (b"elst", 12), (b"tkhd", 24), (b"mvhd", 20)):
        place = data.index(box) + offset
        data[place : place + 4] = struct.pack(">I", 2**31 - 1)
    path.write_bytes(data)
    assert reason_of(iter_slots, path) is Reason.TOO_LARGE


def test_audio_longer_than_the_limit(tmp_path):
    path = write_audio_only(tmp_path / "a.wav", Audio(tone(3.0), codec="pcm_s16le", format="s16"))
    assert reason_of(read_audio, path, MediaLimits(max_seconds=2.0)) is Reason.TOO_LARGE


def _memory_of_bomb(path, queue):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reasons = []
    for function in (probe, lambda path, limits: list(iter_slots(path, limits))):
        try:
            function(path, MediaLimits(max_pixels=1 << 22))
        except Rejected as rejected:
            reasons.append(rejected.reason)
    queue.put((reasons, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def test_image_bomb_with_an_innocent_header_stays_small(tmp_path):
    path = png_bomb(tmp_path / "v.mov", 8000)
    assert path.stat().st_size < 2 << 20
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_memory_of_bomb, args=(path, queue))
    child.start()
    reasons, growth_kib = queue.get(timeout=60)
    child.join(10)
    assert reasons == [Reason.TOO_LARGE] * 2
    assert growth_kib < 100 * 1024, "8000 x 8000 RGB would take 190 MB"


# ---- V-13: files that point elsewhere --------------------------------------------------------------------------------


def playlists(target):
    return {
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
        "hls over http": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        f"<BaseURL>{target}</BaseURL></Period></MPD>",
        "m3u": f"{target}\n",
    }


def _playlist_child(path, target, queue):
    """Reports the verdicts and every file or socket the process opened meanwhile, seen by Python and by the kernel."""
    opened = []
    sys.addaudithook(lambda event, args: opened.append((event, str(args[:1]))) if event in AUDITED else None)
    accessed_ns = target.stat().st_atime_ns
    reasons = []
    for function in (probe, lambda path: list(iter_slots(path)), read_audio):
        try:
            function(path)
            reasons.append(None)
        except Rejected as rejected:
            reasons.append(rejected.reason)
    touched = [entry for entry in opened if entry[0].startswith("socket") or str(target) in entry[1]]
    queue.put((reasons, touched, target.stat().st_atime_ns == accessed_ns))


AUDITED = ("open", "socket.__new__", "socket.connect", "subprocess.Popen", "os.exec", "os.posix_spawn")


@pytest.mark.parametrize("kind", list(playlists("")))
def test_playlists_named_mp4_open_nothing(tmp_path, kind):
    target = write_video(tmp_path / "secret.mp4", 10)
    os.utime(target, (10, 2_000_000_000))  # an access time older than the change time: any read would move it
    path = tmp_path / "v.mp4"
    path.write_text(playlists(target)[kind])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_playlist_child, args=(path, target, queue))
    child.start()
    reasons, touched, is_untouched = queue.get(timeout=60)
    child.join(10)
    assert reasons == [Reason.NOT_MEDIA] * 3
    assert touched == []
    assert is_untouched


def test_the_concat_sample_would_work_without_our_whitelist(tmp_path):
    """Keeps the tests above honest: plain PyAV does open the other file."""
    target = write_video(tmp_path / "secret.mp4", 10)
    path = tmp_path / "v.mp4"
    path.write_text(f"ffconcat version 1.0\nfile '{target.name}'\n")
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10


# ---- paths and the machine -------------------------------------------------------------------------------------------


def test_special_files_are_not_opened(tmp_path):
    fifo = tmp_path / "v.mp4"
    os.mkfifo(fifo)
    for function in (probe, iter_slots, read_audio):
        assert reason_of(function, fifo) is Reason.UNSAFE_PATH
        assert reason_of(function, tmp_path) is Reason.UNSAFE_PATH


def test_missing_file_is_not_a_property_of_the_input(tmp_path):
    for function in (probe, read_audio):
        with pytest.raises(FileNotFoundError):
            function(tmp_path / "absent.mp4")


def test_frame_that_changes_its_size(tmp_path):
    path = tmp_path / "v.mkv"
    parts = [
        write_video(tmp_path / f"{i}.mkv", 5, size=size, codec="mpeg4") for i, size in enumerate([(64, 48), (32, 48)])
    ]
    # MPEG-4 headers in the stream announce the second size; packets of both go into one file.
    with av.open(str(path), "w") as out:
        stream, pts = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                extra = bytes(source.streams.video[0].codec_context.extradata or b"")
                stream = stream or out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        copy = av.Packet((extra if packet.is_keyframe else b"") + bytes(packet))
                        copy.stream, copy.pts, copy.dts, copy.time_base = stream, pts, pts, Fraction(1, 25)
                        copy.is_keyframe = packet.is_keyframe
                        out.mux(copy)
                        pts += 1
    found, reason = slots_until_rejected(path)
    assert reason is Reason.UNSUPPORTED_CODEC
    assert len(found) >= 4


# ---- V-15: fuzz ------------------------------------------------------------------------------------------------------


def _mutated(data, random):
    data = bytearray(data)
    kind = random.integers(6)
    at, length = int(random.integers(len(data))), int(random.integers(1, max(2, len(data) // 4)))
    if kind == 0:
        for place in random.integers(0, len(data), random.integers(1, 40)):
            data[place] = random.integers(256)
    elif kind == 1:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + length]
    elif kind == 4:
        data[at:at] = random.bytes(length)
    else:  # headers: small or giant numbers in the first and last kilobyte
        for _ in range(random.integers(1, 6)):
            place = int(random.integers(0, min(1500, len(data))))
            place = place if random.integers(2) else len(data) - 1 - place
            data[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\0\0\0\1"][
                random.integers(4)
            ]
    return bytes(data)


def _fuzz_child(sources, folder, queue):
    random = np.random.default_rng(FUZZ_SEED)
    limits = MediaLimits(max_pixels=1 << 20, max_seconds=120, max_frames=5000, max_wall_s=10)
    outcomes = []
    for index in range(FUZZ_FILES):
        source = sources[index % len(sources)]
        path = folder / f"{index}{source.suffix}"
        path.write_bytes(_mutated(source.read_bytes(), random))
        for name, function in (
            ("probe", probe),
            ("slots", lambda path, limits: [frame.slot for frame in iter_slots(path, limits)]),
            ("audio", read_audio),
        ):
            try:
                function(path, limits)
                outcomes.append((index, name, "ok"))
            except Rejected as rejected:
                outcomes.append((index, name, rejected.reason.value))
            except BaseException as error:
                outcomes.append((index, name, f"raw {type(error).__name__}: {error}"))
    queue.put(outcomes)


def test_fuzz_ends_in_an_answer_or_rejected(tmp_path):
    audio = Audio(tone(1.0, 16_000), 16_000)
    mp3 = Audio(tone(1.0, 16_000), 16_000, "libmp3lame")
    sources = [
        write_video(tmp_path / "h264.mp4", 25, audio=audio, movflags="faststart"),
        write_video(tmp_path / "h264end.mp4", 25, audio=audio),
        write_video(tmp_path / "vp9.webm", 25, codec="libvpx-vp9"),
        write_video(tmp_path / "h264.mkv", 25, audio=audio),
        write_video(tmp_path / "mpeg4.avi", 25, codec="mpeg4", audio=mp3),
        write_video(tmp_path / "mjpeg.mov", 10, codec="mjpeg", pix_fmt="yuvj420p"),
        write_video(tmp_path / "hevc.mp4", 25, codec="libx265"),
        write_audio_only(tmp_path / "a.wav", Audio(tone(0.3), codec="pcm_s16le", format="s16")),
        write_audio_only(tmp_path / "a.mp3", mp3),
        write_audio_only(tmp_path / "a.flac", Audio(tone(0.5), codec="flac", format="s16")),
    ]
    folder = tmp_path / "mutants"
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_fuzz_child, args=(sources, Path(folder), queue))
    child.start()
    try:
        outcomes = queue.get(timeout=FUZZ_SECONDS)
    finally:
        child.kill()
        child.join()
    assert len(outcomes) == 3 * FUZZ_FILES
    assert [outcome for outcome in outcomes if outcome[2].startswith("raw")] == []
    kinds = {outcome[2] for outcome in outcomes}
    assert {"ok", "NOT_MEDIA", "TRUNCATED"} <= kinds
