"""Bad sources through the cut: each ends in one state with a reason, the good ones beside them are done."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import OutOfSpace, StoreCorrupt
from storage.keys import sha256_file
from storage.objects import ObjectStore
from storage.records import Source, StepResult
from tasks import cut as cut_module
from tasks.cut import cut_shard
from tasks.faces.backend import Detection, FaceBackend, load_backend
from tasks.media import frame_buffer
from tasks.step_keys import cut_key
from tests.media_samples import Audio, png_bomb, rotten, tone, truncated, write_audio_only, write_video
from tests.scenes import (
    HEAD_CLIPS,
    CutObject,
    cut_files,
    dataset_in,
    heads,
    hum,
    scene,
    source_at,
    steady,
    write_scene,
)

SIZE = (256, 208)
MAX_PIXELS = 1024 * 1024
TOO_WIDE = (1280, 1024)
HEADERS_BYTES = 700  # of a JPEG: everything before its scan
DAMAGED = (60, 61)  # frames of `rotten_little.mov`


@pytest.fixture(scope="module")
def backend() -> FaceBackend:
    return load_backend("dlib")


@pytest.fixture(scope="module")
def anna(media: Path) -> np.ndarray:
    return heads(media / HEAD_CLIPS[0])


def wipe_jpegs(source: Path, target: Path, indices: range | tuple[int, ...]) -> Path:
    """Zeros over the headers of some frames of an MJPEG file: they cannot be decoded."""
    data = bytearray(source.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    for index in indices:
        data[starts[index] : starts[index] + HEADERS_BYTES] = bytes(HEADERS_BYTES)
    target.write_bytes(data)
    return target


def renamed_codec(source: Path, target: Path) -> Path:
    """The sample description names a codec that nobody knows."""
    data = source.read_bytes()
    assert data.count(b"avc1") >= 1
    target.write_bytes(data.replace(b"avc1", b"zzz9"))
    return target


def make_bad_files(root: Path, anna: np.ndarray, media: Path) -> dict[str, tuple[str, str]]:
    """Writes every bad file; name -> (state, reason) that the cut must give it."""

    def frames(count: int) -> list[np.ndarray]:
        return scene(count, (anna, steady(30, 5)), size=SIZE)

    def talk(name: str, count: int, audio_s: float | None = None, **options: Any) -> Path:
        audio = hum(round(25 * (count / 25 if audio_s is None else audio_s)))
        return write_scene(root / f"{name}.mp4", frames(count), audio, **options)

    good = talk("good", 150)
    talk("five_seconds", 125)
    talk("five_seconds_and_one", 126)
    talk("one_frame", 1, 0.1)
    talk("audio_ends_early", 150, 4.0)
    talk("audio_ends_a_little_early", 150, 5.5)
    write_scene(root / "no_audio.mp4", frames(60))
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("this is no video\n" * 100)
    (root / "random.mp4").write_bytes(np.random.default_rng(3).bytes(20_000))
    (root / "playlist.mp4").write_text("ffconcat version 1.0\nfile 'good.mp4'\n")
    track = Audio(hum(150)[None], rate_hz=16_000)
    end = write_video(root / "whole.mp4", frames(100), size=SIZE, audio=track)
    truncated(end, root / "index_lost.mp4", 0.8)
    end.unlink()
    truncated(good, root / "tail_lost.mp4", 0.67)
    short = Audio(hum(60)[None], rate_hz=16_000)
    swaying = scene(150, (anna[:1], lambda index: (30 + 20 * np.sin(index / 4), 5, 200)), size=SIZE)
    jpegs = write_video(root / "intra.mov", swaying, size=SIZE, codec="mjpeg", pix_fmt="yuvj420p", audio=track)
    wipe_jpegs(jpegs, root / "rotten_little.mov", DAMAGED)
    wipe_jpegs(jpegs, root / "rotten_much.mov", range(20, 60))
    write_video(root / "as_mp4.mkv", frames(60), size=SIZE, audio=short).rename(root / "matroska.mp4")
    write_video(root / "odd.mp4", [frame[:207, :255] for frame in frames(60)], size=(255, 207), pix_fmt="yuv444p",
                audio=short)  # fmt: skip
    write_video(root / "hundred_hz.mp4", frames(60), size=SIZE, fps=100, audio=Audio(tone(0.6)))
    write_audio_only(root / "audio_only.mp4", Audio(tone(2.0)), "mp4")
    write_audio_only(root / "cover.mp4", Audio(tone(2.0)), "mp4", cover=True)
    write_video(root / "wide.mp4", 2, size=TOO_WIDE, audio=Audio(tone(0.1)))
    png_bomb(root / "bomb.mov", 2000)
    renamed_codec(good, root / "unknown_codec.mp4")
    rotten(media / "surprise_512_25fps_3s.mp4", root / "rotten_bytes.mp4", 7, 400, 0.05, 0.9)
    return {
        "good": ("done", ""),
        "five_seconds": ("done", ""),
        "five_seconds_and_one": ("done", ""),
        "one_frame": ("rejected", "TOO_SHORT"),
        "audio_ends_early": ("rejected", "AV_LENGTH_MISMATCH"),
        "audio_ends_a_little_early": ("done", ""),
        "no_audio": ("rejected", "NO_AUDIO"),
        "empty": ("rejected", "EMPTY"),
        "text": ("rejected", "NOT_MEDIA"),
        "random": ("rejected", "NOT_MEDIA"),
        "playlist": ("rejected", "NOT_MEDIA"),
        "index_lost": ("rejected", "TRUNCATED"),
        "tail_lost": ("rejected", "TRUNCATED"),
        "intra": ("done", ""),
        "rotten_little": ("done", ""),
        "rotten_much": ("rejected", "CORRUPT_FRAMES"),
        "rotten_bytes": ("rejected", "CORRUPT_FRAMES"),
        "matroska": ("done", ""),
        "odd": ("done", ""),
        "hundred_hz": ("rejected", "TOO_LARGE"),
        "audio_only": ("rejected", "NO_VIDEO"),
        "cover": ("rejected", "NO_VIDEO"),
        "wide": ("rejected", "TOO_LARGE"),
        "bomb": ("rejected", "TOO_LARGE"),
        "unknown_codec": ("rejected", "UNSUPPORTED_CODEC"),
    }


def footprint(root: Path) -> dict[str, tuple[str, int]]:
    """Every entry of a folder: content and time of change."""
    return {entry.name: (sha256_file(entry)[0], entry.stat().st_mtime_ns) for entry in root.iterdir()}


@pytest.fixture(scope="module")
def bad(tmp_path_factory, anna, media, backend):
    """(cut, expected states, footprints of the raw folder before and after) of one shard with all of them."""
    root = tmp_path_factory.mktemp("bad")
    expected = make_bad_files(root, anna, media)
    for path in root.iterdir():
        path.chmod(0o444)
    before = footprint(root)
    dataset = dataset_in(root, limits={"max_pixels": MAX_PIXELS, "max_fps": 90.0})
    five = dict.fromkeys(("five_seconds", "five_seconds_and_one", "one_frame"), "five")
    cut = cut_files(tmp_path_factory.mktemp("store"), sorted(root.iterdir()), dataset, backend, five)
    return cut, expected, before, footprint(root)


def test_every_bad_file_ends_in_its_state(bad):
    cut, expected, _, _ = bad
    assert {name: cut.state(name) for name in expected} == expected
    assert len(cut.source_rows) == len(expected)
    for name, (state, _) in expected.items():
        row = cut.source(name)
        assert bool(row["detail"]) == (state == "rejected"), "a rejection says what was found"
        assert "/" not in row["detail"].replace("A/V", ""), f"no path is stored: {row['detail']}"


def test_originals_are_untouched_and_nothing_is_put_beside_them(bad):
    _, _, before, after = bad
    assert before == after


def test_every_expected_clip_is_kept_or_dropped_with_a_reason(bad):
    cut, expected, _, _ = bad
    for name, (state, _) in expected.items():
        rows = cut.clips(name)
        assert all(bool(row["reason"]) != row["is_stored"] for row in rows)
        if state == "done":
            assert [row["window"] for row in rows] == list(range(1, len(rows) + 1))
            starts = [round(row["start_s"] * 25) for row in rows]
            ends = [start + row["num_frames"] for start, row in zip(starts, rows, strict=True)]
            assert starts == [0, *ends[:-1]], "windows tile the source"
        else:
            assert not cut.stored(name)


def test_nothing_of_a_rejected_source_is_in_the_store(bad):
    """`tail_lost` and `rotten_much` had whole clips before they turned out to be unusable."""
    cut, expected, _, _ = bad
    done = {cut.source(name)["source_id"] for name, (state, _) in expected.items() if state == "done"}
    assert cut.source("tail_lost")["num_slots"] > 60, "a clip of 50 frames was complete when the file broke off"
    assert {key.split(".")[0] for key in cut.frames.keys()} == done
    num_stored = sum(len(cut.stored(name)) for name in expected)
    assert len(cut.frames.clips()) == num_stored


def test_exactly_five_seconds_and_one_frame_more(bad):
    cut, _, _, _ = bad
    assert [(row["num_frames"], row["reason"]) for row in cut.clips("five_seconds")] == [(125, "")]
    assert [(row["num_frames"], row["reason"]) for row in cut.clips("five_seconds_and_one")] == [
        (125, ""), (1, "TOO_SHORT"),
    ]  # fmt: skip
    assert "shortest clip has 75" in cut.clips("five_seconds_and_one")[1]["detail"]


def crop_of(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["crop_x_px"], row["crop_y_px"], row["crop_side_px"]


def test_damage_costs_only_the_clips_that_show_it(bad):
    cut, _, _, _ = bad
    whole, rows = cut.clips("intra"), cut.clips("rotten_little")
    assert [(row["num_frames"], row["reason"]) for row in rows] == [(50, ""), (50, "CORRUPT_FRAMES"), (50, "")]
    assert 2 <= cut.source("rotten_little")["num_corrupt"] <= 4
    (before, after), (clean_before, clean_after) = ((found[0]["clip"], found[2]["clip"]) for found in (rows, whole))
    for index in range(50):
        assert cut.frames.jpeg(before, index) == cut.frames.jpeg(clean_before, index)
    # The track that went through the damage may lie a fraction of a pixel elsewhere, and the crop with it.
    apart = np.abs(cut.source_landmarks(rows[2]) - cut.source_landmarks(whole[2]))
    assert apart[..., 0].mean() < 0.5, "the head sways by 3 px per frame: no index is shifted"
    assert np.abs(np.subtract(crop_of(rows[2]), crop_of(whole[2]))).max() <= 2
    for clip, clean in ((before, clean_before), (after, clean_after)):
        assert np.array_equal(cut.frames.audio(clip), cut.frames.audio(clean))


def test_audio_that_ends_early_ends_the_last_clip(bad):
    cut, _, _, _ = bad
    rows = cut.clips("audio_ends_a_little_early")
    assert [row["num_frames"] for row in rows[:2]] == [50, 50]
    assert 36 <= rows[2]["num_frames"] <= 42, "5.5 s of audio and a tenth of a second of silence"
    assert len(cut.frames.audio(rows[2]["clip"])) == 640 * rows[2]["num_frames"]


def test_the_real_container_is_recorded(bad):
    cut, _, _, _ = bad
    assert "matroska" in cut.source("matroska")["container"]
    assert (cut.source("odd")["width_px"], cut.source("odd")["height_px"]) == (255, 207)


def test_bad_files_break_nothing_when_the_dataset_needs_no_audio(tmp_path, anna, backend):
    """Without audio a source is judged by its video alone."""
    write_scene(tmp_path / "no_audio.mp4", scene(60, (anna, steady(30, 5)), size=SIZE))
    write_video(tmp_path / "nobody.mp4", 60)
    whole = write_scene(tmp_path / "whole.mp4", scene(100, (anna, steady(30, 5)), size=SIZE))
    truncated(whole, tmp_path / "tail_lost.mp4", 0.7)
    layouts = {"files": {"pattern": "{x}", "name": "{x}", "subject": "x", "audio": {"required": False},
                         "clips": {"length_s": 2.0, "min_tail_s": 0.4}}}  # fmt: skip
    cut = cut_files(tmp_path / "store", sorted(tmp_path.glob("*.mp4")), dataset_in(tmp_path, layouts=layouts), backend)
    assert {name: cut.state(name)[1] for name in ("no_audio", "nobody", "tail_lost", "whole")} == {
        "no_audio": "", "nobody": "NO_FACE", "tail_lost": "TRUNCATED", "whole": "",
    }  # fmt: skip


# ---- P-02: a detector that talks nonsense ----------------------------------------------------------------------------


class Nonsense:
    """dlib's answers, bent by `boxes` (what detect gives) and `points` (what landmarks gives)."""

    name = "dlib"

    def __init__(self, real: FaceBackend, boxes=None, points=None) -> None:
        self.real, self.boxes, self.points, self.identity = real, boxes, points, real.identity
        self.num_calls = 0

    def detect(self, gray, min_face_px):
        found = self.real.detect(gray, min_face_px)
        return found if self.boxes is None else [Detection(np.array(self.boxes, np.float32), 3.0), *found]

    def verify(self, gray, box):
        assert np.isfinite(box).all()
        return self.real.verify(gray, box)

    def landmarks(self, gray, box):
        assert np.isfinite(box).all()
        self.num_calls += 1
        return self.real.landmarks(gray, box) if self.points is None else self.points(self, gray, box)


def sometimes(value):
    """Landmarks that are right but for every seventh call."""

    def points(backend, gray, box):
        found = backend.real.landmarks(gray, box).copy()
        if backend.num_calls % 7 == 0:
            found[3:9] = value
        return found

    return points


BENT = {
    "NaN box": ({"boxes": [np.nan] * 4}, True),
    "infinite box": ({"boxes": [0, 0, np.inf, np.inf]}, True),
    "box outside": ({"boxes": [5000, 5000, 5200, 5200]}, True),
    "empty box": ({"boxes": [50, 50, 50, 50]}, True),
    "inverted box": ({"boxes": [200, 200, 20, 20]}, True),
    "giant box": ({"boxes": [-1e6, -1e6, 1e6, 1e6]}, True),
    "NaN points now and then": ({"points": sometimes(np.nan)}, True),
    "far points now and then": ({"points": sometimes(1e9)}, True),
    "infinite points now and then": ({"points": sometimes(np.inf)}, True),
    "NaN points always": ({"points": lambda *_: np.full((68, 2), np.nan, np.float32)}, False),
    "points far outside always": ({"points": lambda *_: np.full((68, 2), 1e5, np.float32)}, False),
    "all points in one place": ({"points": lambda *_: np.full((68, 2), 90, np.float32)}, False),
    "too few points": ({"points": lambda *_: np.zeros((67, 2), np.float32)}, False),
}


@pytest.mark.parametrize("kind", BENT)
def test_nonsense_of_the_detector_is_never_stored_as_a_face(tmp_path, anna, backend, kind):
    changes, has_clips = BENT[kind]
    path = write_scene(tmp_path / "v.mp4", scene(50, (anna, steady(60, 20))), hum(50))
    cut = cut_files(tmp_path / "store", [path], dataset_in(tmp_path), Nonsense(backend, **changes))
    assert cut.state("v") == (("done", "") if has_clips else ("rejected", "NO_FACE"))
    for row in cut.stored("v"):
        landmarks, valid = cut.track(row["clip"], "landmarks"), cut.valid(row["clip"])
        assert np.isnan(landmarks[~valid]).all()
        assert valid.mean() > 0.3
        points = cut.source_landmarks(row)[valid]
        assert np.abs(points.mean(axis=1) - (160, 130)).max() < 40, "the face, not the nonsense"
        assert (np.ptp(points, axis=1) < 200).all()
        boxes = cut.track(row["clip"], "source_box")
        assert np.array_equal(np.isfinite(boxes).all(axis=1), valid)
        assert 100 < row["crop_side_px"] < 250


# ---- failed: ours or the machine's -----------------------------------------------------------------------------------


class Breaking:
    """A backend that breaks on frames of one height."""

    name = "dlib"

    def __init__(self, real: FaceBackend, height_px: int, error: BaseException) -> None:
        self.real, self.height_px, self.error, self.identity = real, height_px, error, real.identity

    def detect(self, gray, min_face_px):
        if gray.shape[0] == self.height_px:
            raise self.error
        return self.real.detect(gray, min_face_px)

    def verify(self, gray, box):
        return self.real.verify(gray, box)

    def landmarks(self, gray, box):
        return self.real.landmarks(gray, box)


@pytest.fixture(scope="module")
def three(tmp_path_factory, anna) -> Path:
    """Folder with a.mp4 and y.mp4 (256 high) and odd.mp4 (240 high)."""
    root = tmp_path_factory.mktemp("three")
    for name, count, height in (("a", 50, 256), ("y", 60, 256), ("odd", 50, 240)):
        write_scene(root / f"{name}.mp4", scene(count, (anna, steady(40, 20)), size=(320, height)), hum(count))
    return root


def in_order(root: Path) -> list[Source]:
    return [source_at(root / name) for name in ("a.mp4", "odd.mp4", "y.mp4")]


def cut_breaking(root: Path, store: Path, backend: FaceBackend, error: BaseException) -> StepResult:
    return cut_shard("s", in_order(root), dataset_in(root), ObjectStore(store), Breaking(backend, 240, error))


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RuntimeError("the model broke"), MemoryError("no memory left")]
)
def test_a_failed_source_is_named_and_costs_only_itself(tmp_path, three, backend, error):
    first, odd, last = in_order(three)
    result = cut_breaking(three, tmp_path, backend, error)
    assert list(result.failed) == [odd.source_id]
    assert type(error).__name__ in result.failed[odd.source_id]
    assert (getattr(error, "strerror", None) or str(error)) in result.failed[odd.source_id]
    assert result.source_ids == (first.source_id, last.source_id)
    store = ObjectStore(tmp_path)
    assert list(store.keys()) == [result.key], "nothing stands under the key of the whole shard"
    expected, _ = cut_key(dataset_in(three), [first.member(), last.member()])
    assert result.key == expected
    cut = CutObject(store.path(result.key), [first, last])
    assert cut.state("a") == cut.state("y") == ("done", "")
    assert result.num_clips == len(cut.frames.clips()) > 0
    assert not list((tmp_path / "staging").iterdir())


def test_the_subset_has_the_bytes_it_would_have_alone(tmp_path, three, backend):
    first, _, last = in_order(three)
    partial = cut_breaking(three, tmp_path / "broken", backend, RuntimeError("x"))
    alone = cut_shard("s", [first, last], dataset_in(three), ObjectStore(tmp_path / "alone"), backend)
    assert (partial.key, partial.digest) == (alone.key, alone.digest)
    healed = cut_shard("s", in_order(three), dataset_in(three), ObjectStore(tmp_path / "broken"), backend)
    assert not healed.failed
    assert healed.key != partial.key
    assert len(healed.source_ids) == 3


def test_when_every_source_fails_there_is_no_object(tmp_path, three, backend):
    odd = in_order(three)[1]
    broken = Breaking(backend, 240, OSError("gone"))
    result = cut_shard("s", [odd], dataset_in(three), ObjectStore(tmp_path), broken)
    assert (result.key, result.source_ids, result.num_clips) == ("", (), 0)
    assert list(result.failed) == [odd.source_id]
    assert list(ObjectStore(tmp_path).keys()) == []


def test_a_file_that_vanished_is_failed_not_rejected(tmp_path, three, backend):
    first, odd, _ = in_order(three)
    gone = Source("gone.mp4", b"gone.mp4".hex(), "files", "gone", "gone", {}, sha256="0" * 64)
    result = cut_shard("s", [first, gone, odd], dataset_in(three), ObjectStore(tmp_path), backend)
    assert list(result.failed) == [gone.source_id]
    assert "FileNotFoundError" in result.failed[gone.source_id]
    assert result.source_ids == (first.source_id, odd.source_id)


@pytest.mark.parametrize("error", [OutOfSpace("the disk is full"), StoreCorrupt("pages"), KeyboardInterrupt()])
def test_what_concerns_the_whole_run_passes_through(tmp_path, three, backend, error):
    with pytest.raises(type(error)):
        cut_breaking(three, tmp_path, backend, error)
    assert list(ObjectStore(tmp_path).keys()) == []
    assert not list((tmp_path / "staging").iterdir())


def test_a_disk_that_is_full_for_waiting_frames_is_out_of_space(tmp_path, anna, backend, monkeypatch):
    """Frames of a long take wait in a file; when it cannot grow, no source is to blame."""

    class FullFile:
        def write(self, _data):
            raise OSError(28, os.strerror(28))

        def seek(self, _place):
            pass

        def flush(self):
            pass

        def close(self):
            pass

    monkeypatch.setattr(frame_buffer.tempfile, "TemporaryFile", lambda dir: FullFile())
    monkeypatch.setattr(cut_module.FrameBuffer.__init__, "__defaults__", (1,))
    long = write_scene(tmp_path / "long.mp4", scene(80, (anna, steady(40, 20))), hum(80))
    dataset = dataset_in(tmp_path, {"length_s": "whole", "min_tail_s": 1.0})
    with pytest.raises(OutOfSpace):
        cut_shard("s", [source_at(long)], dataset, ObjectStore(tmp_path / "store"), backend)
    assert list(ObjectStore(tmp_path / "store").keys()) == []
