"""The cut of real clips and of scenes with real faces: counts, time law, pixels, audio, speakers, crops, keys."""

import math
import multiprocessing
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from PIL import Image
from scipy.signal import resample_poly

from storage.catalog import ClipRule
from storage.keys import sha256_file
from storage.objects import ObjectStore
from storage.records import Span
from tasks.cut import cut_shard
from tasks.faces.backend import FaceBackend, load_backend
from tasks.geometry import face_box, iou
from tasks.media.frame_buffer import FrameBuffer
from tests.media_samples import Audio, write_audio_only, write_video
from tests.scenes import (
    HEAD_CLIPS,
    CutObject,
    beep_onsets_s,
    beeps,
    cut_files,
    dataset_in,
    during,
    heads,
    hum,
    scene,
    sliding,
    source_at,
    steady,
    with_flashes,
    write_scene,
)

FIVE_SECONDS = ClipRule()
REAL = {  # name -> frames of its expected clips at 25 fps
    "cropped_256_24fps_fastmotion": [125, 125, 125, 90],
    "cropped_256_25fps_60s": [125] * 11 + [124],
    "head_shoulders_450_25fps": [125] * 4,
    "portrait_1080x1920_30fps_hevc": [125] * 4,
    "surprise_512_25fps_3s": [92],
}
NO_SOUND, NO_FACE = "cropped_256_30fps_noaudio", "noface_256_10fps"
NUM_COMPARED = 8  # frames per clip that are compared with the reference


@pytest.fixture(scope="module")
def backend() -> FaceBackend:
    return load_backend("dlib")


@pytest.fixture(scope="module")
def real(media: Path, tmp_path_factory: pytest.TempPathFactory, backend: FaceBackend) -> CutObject:
    """All real clips as one shard of one dataset that requires audio."""
    paths = sorted(path for path in media.iterdir() if path.suffix in (".mp4", ".mov"))
    return cut_files(tmp_path_factory.mktemp("real"), paths, dataset_in(media, FIVE_SECONDS), backend)


@pytest.fixture(scope="module")
def anna(media: Path) -> np.ndarray:
    return heads(media / HEAD_CLIPS[0])


@pytest.fixture(scope="module")
def bert(media: Path) -> np.ndarray:
    return heads(media / HEAD_CLIPS[1])


def stored_rows(real: CutObject) -> Iterator[tuple[str, dict]]:
    for name in REAL:
        for row in real.stored(name):
            yield name, row


# ---- counts, time law, landmarks of the real clips -------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_real_clips_become_clips_at_exactly_25_fps(real, name):
    rows = real.clips(name)
    assert real.state(name) == ("done", "")
    assert [row["num_frames"] for row in rows] == REAL[name]
    assert all(row["is_stored"] and row["reason"] == "" for row in rows)
    assert [row["window"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["start_s"] for row in rows] == [5.0 * index for index in range(len(rows))]
    assert real.source(name)["num_slots"] == sum(REAL[name])
    assert real.source(name)["num_corrupt"] == 0


def test_sources_without_audio_or_face_are_rejected(real):
    assert real.state(NO_SOUND) == ("rejected", "NO_AUDIO")
    assert real.state(NO_FACE) == ("rejected", "NO_FACE")
    assert "audio.required" in real.source(NO_SOUND)["detail"], "it says what to do"
    assert not real.clips(NO_SOUND)
    assert len(real.source_rows) == len(REAL) + 2


def test_time_law_and_a_landmark_row_for_every_frame(real):
    for name, row in stored_rows(real):
        clip, num_frames = row["clip"], row["num_frames"]
        assert real.frames.num_frames(clip) == num_frames
        assert real.frames.audio(clip).shape == (640 * num_frames,)
        assert row["has_audio"]
        assert np.abs(real.frames.audio(clip)).max() > 0.01 or "fastmotion" in name, "one file is silent"
        landmarks, boxes = real.track(clip, "landmarks"), real.track(clip, "source_box")
        assert landmarks.shape == (num_frames, 68, 2)
        assert boxes.shape == (num_frames, 4)
        assert real.track(clip, "num_faces").shape == real.track(clip, "is_corrupt").shape == (num_frames,)
        valid = real.valid(clip)
        assert np.isnan(landmarks[~valid]).all(), "a frame is known entirely or not at all"
        assert np.array_equal(np.isfinite(boxes).all(axis=1), valid)
        assert (real.track(clip, "num_faces")[valid] >= 1).all()
        assert valid.mean() > 0.95, name
    keys = sorted(real.frames.keys())
    assert len(keys) == sum(sum(counts) + 2 * len(counts) for counts in REAL.values()), "nothing else is stored"


@pytest.mark.parametrize("name", REAL)
def test_the_face_is_centred_and_whole_in_the_crop(real, name):
    """The union of a clip's face boxes is centred to the pixel and fills 1 / 1.2 of the side."""
    for row in real.stored(name):
        valid = real.valid(row["clip"])
        boxes = face_box(real.track(row["clip"], "landmarks"))[valid]
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        np.testing.assert_allclose((low + high) / 2, 127.5, atol=1.0)
        assert max(high - low) == pytest.approx(256 / 1.2, abs=2.0)
        assert low.min() >= 0
        assert high.max() <= 255
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        # Fast heads move by design inside a steady crop; for the others an eighth of the side is the bound.
        bound = 64 if "fastmotion" in name else 32
        assert np.abs(centres - 127.5).max() < bound
        own = face_box(real.source_landmarks(row))[valid]
        np.testing.assert_allclose(real.track(row["clip"], "source_box")[valid], own, atol=0.05)


def test_no_audio_is_zeros_where_the_dataset_allows_it(media, tmp_path, backend):
    clips = {"files": {"pattern": "{x}", "name": "{x}", "subject": "x", "audio": {"required": False}}}
    silent = cut_files(tmp_path, [media / f"{NO_SOUND}.mp4"], dataset_in(media, layouts=clips), backend)
    assert silent.state(NO_SOUND) == ("done", "")
    rows = silent.clips(NO_SOUND)
    assert [row["num_frames"] for row in rows] == [125, 125, 74]
    assert [row["reason"] for row in rows] == ["", "", "TOO_SHORT"], "30 fps: 389 frames are 324 at 25 fps"
    for row in silent.stored(NO_SOUND):
        assert not row["has_audio"]
        assert not silent.frames.audio(row["clip"]).any()
        assert len(silent.frames.audio(row["clip"])) == 640 * 125
    assert not silent.source(NO_SOUND)["has_audio"]


# ---- pixels ----------------------------------------------------------------------------------------------------------


def slots_of(path: Path) -> Iterator[tuple[int, av.VideoFrame]]:
    """(slot, frame) of every 25-fps slot by the rule max{i: floor(25 t_i + 1/2) <= slot}."""
    with av.open(str(path)) as container:
        slot, shown = 0, None
        for frame in container.decode(video=0):
            start = math.floor(frame.pts * frame.time_base * 25 + Fraction(1, 2))
            for empty in range(slot, start if shown is not None else slot):
                yield empty, shown
            slot, shown = max(slot, start), frame
        yield slot, shown


class Scaler:
    """libswscale at its most exact: full chroma, accurate rounding, the file's own matrix and range."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            graph = av.filter.Graph()
            stages = [graph.add_buffer(template=container.streams.video[0])]
            stages.append(graph.add("scale", "flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"))
            stages += [graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink")]
            graph.link_nodes(*stages).configure()
        self._graph = graph
        self._num = 0

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB [H, W, 3]."""
        pts, frame.pts = frame.pts, self._num
        self._num += 1
        self._graph.push(frame)
        frame.pts = pts
        return self._graph.pull().to_ndarray()


def direct_crop(rgb: np.ndarray, row: dict) -> np.ndarray:
    """Pillow's crop and antialiased bilinear resize of the same box on a black canvas."""
    x0, y0, side, (height, width) = row["crop_x_px"], row["crop_y_px"], row["crop_side_px"], rgb.shape[:2]
    left, top = max(0, -x0), max(0, -y0)
    canvas = np.zeros((top + max(height, y0 + side), left + max(width, x0 + side), 3), np.uint8)
    canvas[top : top + height, left : left + width] = rgb
    box = (x0 + left, y0 + top, x0 + left + side, y0 + top + side)
    return np.asarray(Image.fromarray(canvas).resize((256, 256), Image.Resampling.BILINEAR, box=box))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b.astype(float)) ** 2))))


@pytest.mark.parametrize("name", REAL)
def test_stored_frames_equal_the_direct_crop(real, media, name):
    path = next(media.glob(f"{name}.m*"))
    wanted = {
        round(row["start_s"] * 25) + int(index): (row, int(index))
        for row in real.stored(name)
        for index in np.linspace(0, row["num_frames"] - 1, NUM_COMPARED)
    }
    scaler, figures = Scaler(path), {}
    for slot, frame in slots_of(path):
        if slot in wanted:
            row, index = wanted[slot]
            found = real.frames.frame(row["clip"], index)
            figures.setdefault(row["window"], []).append(psnr(found, direct_crop(scaler(frame), row)))
    means = {window: round(float(np.mean(values)), 1) for window, values in figures.items()}
    assert all(len(values) == NUM_COMPARED for values in figures.values())
    assert len(figures) == len(REAL[name])
    assert min(means.values()) >= 45, means


@pytest.mark.parametrize("name", ["cropped_256_24fps_fastmotion", "head_shoulders_450_25fps"])
def test_each_stored_frame_is_the_one_of_its_slot(real, media, name):
    row = real.stored(name)[1]
    first = round(row["start_s"] * 25)
    path = next(media.glob(f"{name}.m*"))
    scaler = Scaler(path)
    crops = {
        slot: direct_crop(scaler(frame), row) for slot, frame in slots_of(path) if first - 1 <= slot <= first + 125
    }
    num_told_apart = 0
    for index in range(125):
        found, slot = real.frames.frame(row["clip"], index), first + index
        own = psnr(found, crops[slot])
        for other in (slot - 1, slot + 1):
            if not np.array_equal(crops[other], crops[slot]):
                assert psnr(found, crops[other]) < own, f"frame {index} looks like slot {other}"
                num_told_apart += 1
    assert num_told_apart > 200


def test_landmarks_lie_on_the_stored_face(real, backend):
    """Landmarks found anew in the stored frame: a transform that is off by a pixel would show."""
    for name in ("portrait_1080x1920_30fps_hevc", "surprise_512_25fps_3s"):
        row = real.stored(name)[0]
        tracked, offsets = real.track(row["clip"], "landmarks"), []
        for index in range(0, row["num_frames"], 10):
            rgb = real.frames.frame(row["clip"], index)
            gray = np.ascontiguousarray((rgb @ [0.299, 0.587, 0.114]).astype(np.uint8))
            face = max(backend.detect(gray, 80), key=lambda found: found.score)
            offsets.append((backend.landmarks(gray, face.box) - tracked[index]).mean(axis=0))
        assert np.abs(np.median(offsets, axis=0)).max() < 1.0


# ---- audio -----------------------------------------------------------------------------------------------------------


def test_stored_audio_is_that_of_the_file(real, media):
    """Against FFmpeg's decoder and scipy's resampler, placed by the timestamps of the file."""
    name = "head_shoulders_450_25fps"
    with av.open(str(media / f"{name}.mp4")) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].pts == 0
    whole = resample_poly(np.concatenate([frame.to_ndarray().mean(axis=0) for frame in frames]), 1, 3)
    for row in real.stored(name):
        first = round(row["start_s"] * 16_000)
        expected = whole[first : first + 640 * 125]
        found = real.frames.audio(row["clip"])[: len(expected)]
        assert np.corrcoef(found, expected)[0, 1] > 0.999
        assert np.corrcoef(found[1:], expected[:-1])[0, 1] < 0.999, "one sample later would be noticed"


FLASHES_S = (1.2, 2.48, 3.64)  # on the grids of 24, 25 and 30 fps as near as may be; each flash lasts 2 frames


def flash_images(anna: np.ndarray, fps: float, seconds: float, start_s: float = 0.0):
    """(frames, true times of the flashes): a talking head, and white frames."""
    frames = scene(round(seconds * fps), (anna, steady(60, 20)))
    firsts = [round((at - start_s) * fps) for at in FLASHES_S]
    return with_flashes(frames, [first + i for first in firsts for i in range(2)]), [
        first / fps + start_s for first in firsts
    ]


def write_flash_clip(path: Path, anna: np.ndarray, kind: str) -> list[float]:
    """Writes one of the FLASH_KINDS; returns the true times at which a flash and a beep come together."""
    fps = {"24 fps": 24.0, "30 fps": 30.0}.get(kind, 25.0)
    video_start_s = 0.48 if kind == "late video" else 0.0
    frames, times_s = flash_images(anna, fps, 4.6, video_start_s)
    start_s = {"late audio": 0.48, "slightly late audio": 0.05}.get(kind, 0.0)
    audio = beeps(5.0, [at - start_s for at in times_s])
    if kind not in ("late video", "uneven frames"):
        write_scene(path, frames, audio[: round((4.6 - start_s) * 16_000)], Fraction(fps), start_s)
        return times_s
    pts = [round(1000 * (index / 25 + video_start_s)) for index in range(len(frames))]
    if kind == "uneven frames":
        jitter = np.random.default_rng(1).integers(-8, 9, len(pts))
        pts = [max(0, at + int(by)) for at, by in zip(pts, jitter, strict=True)]
    track = Audio(audio[None], rate_hz=16_000)
    write_video(path, frames, size=(320, 256), pts=pts, time_base=Fraction(1, 1000), audio=track)
    return times_s


FLASH_KINDS = ("24 fps", "25 fps", "30 fps", "late audio", "slightly late audio", "late video", "uneven frames")


@pytest.fixture(scope="module")
def flashes(tmp_path_factory, anna, backend):
    root = tmp_path_factory.mktemp("flashes")
    times_s = {kind: write_flash_clip(root / f"{kind}.mp4", anna, kind) for kind in FLASH_KINDS}
    dataset = dataset_in(root, ClipRule(length_s="whole", min_tail_s=1.0))
    return cut_files(root / "store", sorted(root.glob("*.mp4")), dataset, backend), times_s


@pytest.mark.parametrize("kind", FLASH_KINDS)
def test_a_flash_and_its_beep_stay_together(flashes, kind):
    cut, times_s = flashes
    (row,) = cut.stored(kind)
    light = np.array([cut.frames.frame(row["clip"], index).mean() for index in range(row["num_frames"])])
    bright = np.flatnonzero(light > 0.75 * light.max() + 0.25 * np.median(light))
    flash_frames = [int(at) for at, before in zip(bright, [-9, *bright], strict=False) if at - before > 1]
    onset_frames = [25 * at for at in beep_onsets_s(cut.frames.audio(row["clip"]))]
    assert len(flash_frames) == len(onset_frames) == 3
    errors = np.array(flash_frames) - onset_frames
    assert np.abs(errors).max() < 1.0, errors
    np.testing.assert_allclose(row["start_s"] + np.array(onset_frames) / 25, times_s[kind], atol=0.008)
    np.testing.assert_allclose(row["start_s"] + np.array(flash_frames) / 25, times_s[kind], atol=0.04)


def test_audio_that_starts_late_shortens_the_video_or_is_padded(flashes):
    cut, _ = flashes
    (late,), (slight,), (video,) = (cut.stored(kind) for kind in ("late audio", "slightly late audio", "late video"))
    assert 0.4 <= late["start_s"] <= 0.52, "no frame before there is audio (AAC primes up to 64 ms)"
    assert slight["start_s"] == 0.0, "less than a tenth of a second is silence"
    assert video["start_s"] == 0.48


BESIDE = {
    "files": {
        "pattern": "{x}.mp4", "name": "{x}", "subject": "x", "audio": {"path": "{x}.m4a"},
        "clips": {"length_s": "whole", "min_tail_s": 1.0},
    }
}  # fmt: skip


def test_audio_beside_the_video_is_used_instead_of_its_own(tmp_path, anna, backend):
    """MEAD's layout; the audio in the video itself is another one."""
    frames, times_s = flash_images(anna, 25.0, 4.6)
    video = write_scene(tmp_path / "v.mp4", frames, hum(115))
    audio = write_audio_only(tmp_path / "v.m4a", Audio(beeps(4.6, times_s)[None], rate_hz=16_000), "mp4")
    beside = {"audio_path_hex": b"v.m4a".hex(), "audio_sha256": sha256_file(audio)[0]}
    sources = [source_at(video, **beside), source_at(video)]
    store = ObjectStore(tmp_path / "store")
    result = cut_shard("s", sources, dataset_in(tmp_path, layouts=BESIDE), store, backend)
    found, lacking = (CutObject(store.path(result.key), [source]) for source in sources)
    (row,) = found.stored("v")
    np.testing.assert_allclose(beep_onsets_s(found.frames.audio(row["clip"])), times_s, atol=0.008)
    assert lacking.state("v") == ("rejected", "NO_AUDIO"), "its own audio is not what the layout asks for"
    assert "v.m4a" in lacking.source("v")["detail"] or "no file" in lacking.source("v")["detail"]


# ---- who speaks, where the crop goes ---------------------------------------------------------------------------------


def full_image(media: Path, which: int) -> np.ndarray:
    return heads(media / HEAD_CLIPS[which], 110, 256)


@pytest.fixture(scope="module")
def people(tmp_path_factory, media, anna, bert, backend):
    """One shard of scenes, by name; every scene has 100 frames, clips of 50."""
    root = tmp_path_factory.mktemp("people")
    first, second = full_image(media, 0), full_image(media, 1)
    scenes = {
        "nobody": scene(100),
        "leaves": scene(100, (anna[:1], sliding((60, 20), (340, 20), 30, 60))),
        "enters": scene(100, (anna[:1], sliding((-220, 20), (60, 20), 30, 60))),
        "returns": scene(
            100, (anna, lambda index: None if 20 <= index < 35 else (60, 20, 200)), background=100
        ),
        "two": scene(100, (bert, steady(190, 60, 160)), (anna, steady(-10, 20)), size=(360, 256)),
        "tiny": scene(100, (anna, steady(60, 20, 70))),
        "border": scene(100, (anna, steady(-55, -25))),
        "passer": scene(
            100, (anna, steady(-20, 56)), (bert, during(steady(150, 0, 240), 25, 35)), size=(400, 256)
        ),
        "cut at 60": [*first[:60], *second[:50]],
    }  # fmt: skip
    paths = [write_scene(root / f"{name}.mp4", frames, hum(len(frames))) for name, frames in scenes.items()]
    return cut_files(root / "store", paths, dataset_in(root), backend)


def head_offsets(people, row, placing) -> np.ndarray:
    """[n, 2] px: mean landmark of each valid frame relative to the corner of the pasted image."""
    first = round(row["start_s"] * 25)
    corners = np.array([placing(first + index)[:2] for index in range(row["num_frames"])])
    return (people.source_landmarks(row).mean(axis=1) - corners)[people.valid(row["clip"])]


@pytest.mark.parametrize("name", ["nobody", "tiny"])
def test_no_face_or_a_tiny_one_rejects_the_source(people, name):
    assert people.state(name) == ("rejected", "NO_FACE")
    rows = people.clips(name)
    assert [(row["is_stored"], row["reason"], row["num_frames"]) for row in rows] == [(False, "NO_FACE", 50)] * 2


def test_a_short_rest_does_not_hide_that_there_is_no_face(tmp_path, backend):
    path = write_scene(tmp_path / "nobody.mp4", scene(55), hum(55))
    cut = cut_files(tmp_path / "store", [path], dataset_in(tmp_path), backend)
    assert [row["reason"] for row in cut.clips("nobody")] == ["NO_FACE", "TOO_SHORT"]
    assert cut.state("nobody") == ("rejected", "NO_FACE")


def test_a_face_that_leaves_is_missing_from_then_on(people):
    first, second = people.clips("leaves")
    valid = people.valid(first["clip"])
    assert np.array_equal(valid, np.arange(50) < valid.sum()), "seen until it goes, not after"
    assert 40 <= valid.sum() < 50
    assert (second["is_stored"], second["reason"]) == (False, "NO_FACE")
    offsets = head_offsets(people, first, sliding((60, 20), (340, 20), 30, 60))
    assert np.ptp(offsets, axis=0).max() < 12, "landmarks stand in the row of their own frame: 9 px per frame"


def test_a_face_that_enters_is_missing_until_then(people):
    first, second = people.clips("enters")
    valid = people.valid(first["clip"])
    assert np.array_equal(valid, np.arange(50) >= 50 - valid.sum())
    assert 1 <= valid.sum() < 15
    assert people.valid(second["clip"]).all()
    offsets = head_offsets(people, second, sliding((-220, 20), (60, 20), 30, 60))
    assert np.ptp(offsets, axis=0).max() < 12
    assert first["crop_x_px"] < 0, "the crop follows the face to the border, it is not clamped"


def test_a_gap_is_nan_in_place(people):
    first, _ = people.clips("returns")
    assert np.array_equal(people.valid(first["clip"]), [not 20 <= index < 35 for index in range(50)])
    assert people.track(first["clip"], "num_faces").tolist() == [int(not 20 <= index < 35) for index in range(50)]


def test_the_larger_of_two_faces_speaks(people):
    for row in people.stored("two"):
        x = people.source_landmarks(row)[..., 0]
        assert x.max() < 190, "Anna stands on the left"
        assert (people.track(row["clip"], "num_faces") == 2).all()


def test_a_larger_face_that_passes_does_not_take_over(people):
    row, _ = people.stored("passer")
    assert np.nanmax(people.source_landmarks(row)[..., 0]) < 170


def test_two_faces_are_refused_where_the_dataset_says_so(tmp_path, anna, bert, backend):
    frames = scene(60, (bert, steady(190, 60, 160)), (anna, steady(-10, 20)), size=(360, 256))
    path = write_scene(tmp_path / "two.mp4", frames, hum(60))
    cut = cut_files(tmp_path / "store", [path], dataset_in(tmp_path, face={"max_faces": 1}), backend)
    assert cut.state("two") == ("rejected", "MULTI_FACE")
    assert {row["reason"] for row in cut.clips("two")} == {"MULTI_FACE"}


def test_a_face_at_the_border_is_padded_with_black_never_squeezed(people, anna):
    for row in people.stored("border"):
        x0, y0, side = row["crop_x_px"], row["crop_y_px"], row["crop_side_px"]
        assert x0 < 0
        assert y0 < 0
        frame = people.frames.frame(row["clip"], 10)
        edge_x, edge_y = math.floor(-x0 * 256 / side), math.floor(-y0 * 256 / side)
        assert frame[:, : edge_x - 2].max() <= 16, "black, but for what JPEG rings"
        assert frame[: edge_y - 2].max() <= 16
        assert frame[edge_y + 4 : 250, edge_x + 4 : 250].mean() > 40
        matrix = np.array(row["source_to_crop"]).reshape(3, 3)
        assert matrix[0, 0] == matrix[1, 1] == 256 / side
        shown = round(row["start_s"] * 25) + 10
        drawn = scene(shown + 1, (anna, steady(-55, -25)))[shown]
        assert psnr(frame, direct_crop(drawn, row)) > 30, "the image itself, but for the video codec"
        assert (people.valid(row["clip"])).all()


def test_no_clip_crosses_a_cut_to_another_person(people):
    rows = people.clips("cut at 60")
    assert [(round(row["start_s"] * 25), row["num_frames"]) for row in rows] == [(0, 50), (50, 10), (60, 50)]
    assert all(row["is_stored"] for row in rows)
    tops = [people.track(row["clip"], "source_box")[:, 1] for row in rows]
    assert max(tops[0].max(), tops[1].max()) < 38 < tops[2].min(), "each person's hairline has its own height"


def test_no_clip_crosses_a_cut_at_the_end_of_a_block(tmp_path, media, backend):
    first, second = full_image(media, 0), full_image(media, 1)
    for at in (47, 49):
        write_scene(tmp_path / f"{at}.mp4", [*first[:at], *second[at:100]], hum(100))
    cut = cut_files(tmp_path / "store", sorted(tmp_path.glob("*.mp4")), dataset_in(tmp_path), backend)
    assert [[row["num_frames"] for row in cut.clips(name)] for name in ("47", "49")] == [[47, 50, 3], [49, 50, 1]]


# ---- rotation --------------------------------------------------------------------------------------------------------

ONE = 1 << 16
TURNS = {  # clockwise degrees that make it upright: (a, b, c, d) of the display matrix, np.rot90 of the stored frame
    90: ((0, ONE, -ONE, 0), 1),
    180: ((-ONE, 0, 0, -ONE), 2),
    270: ((0, -ONE, ONE, 0), 3),
}


def test_a_rotated_file_gives_the_crops_of_its_upright_copy(tmp_path, anna, backend):
    frames = scene(30, (anna, steady(40, 30)), size=(288, 256))
    audio, good = Audio(hum(30)[None], rate_hz=16_000), {"crf": "12", "preset": "ultrafast"}
    write_video(tmp_path / "upright.mp4", frames, size=(288, 256), audio=audio, options=good)
    for degrees, ((a, b, c, d), turns) in TURNS.items():
        stored = [np.rot90(frame, turns) for frame in frames]
        size = (stored[0].shape[1], stored[0].shape[0])
        matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
        write_video(tmp_path / f"{degrees}.mp4", stored, size=size, audio=audio, options=good, matrix=matrix)
    cut = cut_files(tmp_path / "store", sorted(tmp_path.glob("*.mp4")), dataset_in(tmp_path), backend)
    (upright,) = cut.stored("upright")
    for degrees in TURNS:
        (row,) = cut.stored(str(degrees))
        source = cut.source(str(degrees))
        assert (source["rotation_deg"], source["width_px"], source["height_px"]) == (degrees, 288, 256)
        boxes = [cut.track(found["clip"], "source_box") for found in (row, upright)]
        assert iou(*boxes).min() > 0.95
        assert psnr(cut.frames.frame(row["clip"], 7), cut.frames.frame(upright["clip"], 7)) > 30


# ---- annotated spans, one crop per source ----------------------------------------------------------------------------


def cut_sources(root: Path, sources, dataset, backend) -> CutObject:
    store = ObjectStore(root / "store")
    result = cut_shard("shard", sources, dataset, store, backend)
    assert not result.failed, result.failed
    return CutObject(store.path(result.key), sources)


def test_only_the_annotated_spans_and_the_person_in_their_box(tmp_path, anna, bert, backend):
    """Anna on the left is larger; the second span is about Bert, the third about nobody in particular."""
    frames = scene(170, (bert, steady(190, 60, 160)), (anna, steady(-10, 20)), size=(360, 256))
    path = write_scene(tmp_path / "talk.mp4", frames, hum(170))
    right = (190 / 256, 0.0, 360 / 256, 1.0)
    spans = (Span(0.28, 1.28), Span(2.0, 4.4, right), Span(5.0, 6.0))
    cut = cut_sources(tmp_path, [source_at(path, spans=spans)], dataset_in(tmp_path), backend)
    found = [(row["span"], round(row["start_s"] * 25), row["num_frames"], row["reason"]) for row in cut.clips("talk")]
    assert found == [(0, 7, 25, ""), (1, 50, 50, ""), (1, 100, 10, ""), (2, 125, 25, "")]
    assert [row["window"] for row in cut.clips("talk")] == [1, 2, 3, 4]
    for row in cut.clips("talk"):
        x = cut.source_landmarks(row)[..., 0].mean()
        assert (x > 200) == (row["span"] == 1)
        assert cut.valid(row["clip"]).all()


def test_a_box_without_a_face_gives_no_clip(tmp_path, anna, backend):
    path = write_scene(tmp_path / "talk.mp4", scene(60, (anna, steady(60, 20))), hum(60))
    source = source_at(path, spans=(Span(0.0, 2.0, (0.0, 0.0, 0.2, 0.2)), Span(2.0, 2.4)))
    cut = cut_sources(tmp_path, [source], dataset_in(tmp_path), backend)
    assert [(row["span"], row["is_stored"], row["reason"]) for row in cut.clips("talk")] == [
        (0, False, "NO_FACE"), (1, True, ""),
    ]  # fmt: skip


def test_a_span_that_is_not_in_the_file_is_dropped_with_a_reason(tmp_path, anna, backend):
    path = write_scene(tmp_path / "talk.mp4", scene(60, (anna, steady(60, 20))), hum(60))
    sources = [source_at(path, spans=(Span(0.0, 1.0), Span(50.0, 55.0))), source_at(path, spans=(Span(70.0, 75.0),))]
    store = ObjectStore(tmp_path / "store")
    result = cut_shard("shard", sources, dataset_in(tmp_path), store, backend)
    both, beyond = (CutObject(store.path(result.key), [source]) for source in sources)
    found = [(row["window"], row["span"], row["num_frames"], row["reason"]) for row in both.clips("talk")]
    assert found == [(1, 0, 25, ""), (2, 1, 0, "TOO_SHORT")]
    assert both.state("talk") == ("done", "")
    assert beyond.state("talk") == ("rejected", "TOO_SHORT")
    assert [(row["num_frames"], row["reason"]) for row in beyond.clips("talk")] == [(0, "TOO_SHORT")]


def test_one_crop_for_all_clips_of_a_source(tmp_path, anna, backend):
    frames = scene(100, (anna, sliding((20, 20), (100, 40), 0, 100)))
    path = write_scene(tmp_path / "walk.mp4", frames, hum(100))
    boxes = {}
    for scope in ("clip", "source"):
        dataset = dataset_in(tmp_path, crop={"scope": scope})
        rows = cut_files(tmp_path / scope, [path], dataset, backend).stored("walk")
        boxes[scope] = [(row["crop_x_px"], row["crop_y_px"], row["crop_side_px"]) for row in rows]
    assert boxes["clip"][0] != boxes["clip"][1]
    assert boxes["source"][0] == boxes["source"][1]
    low = min(x for x, _, _ in boxes["clip"]), min(y for _, y, _ in boxes["clip"])
    assert abs(boxes["source"][0][0] - low[0]) < 20, "it holds the faces of both"
    assert boxes["source"][0][2] > max(side for _, _, side in boxes["clip"])


# ---- determinism -----------------------------------------------------------------------------------------------------


def cut_elsewhere(root: Path, names: list[str], others: list[str], queue) -> None:
    """Child process: other work first, then the shard; reports key and digest."""
    import cv2

    cv2.setNumThreads(1)
    dataset = dataset_in(root)
    for order in ([source_at(root / name) for name in others], [source_at(root / name) for name in names]):
        result = cut_shard("elsewhere", order, dataset, ObjectStore(root / "child"))
    queue.put((result.key, result.digest))


def test_the_same_shard_has_the_same_bytes_in_another_process(tmp_path, anna, bert, backend):
    names = [f"{name}.mp4" for name in "ab"]
    write_scene(tmp_path / "a.mp4", scene(70, (anna, steady(60, 20))), hum(70))
    write_scene(tmp_path / "b.mp4", scene(60, (bert, sliding((20, 20), (90, 40), 0, 60))), hum(60))
    write_scene(tmp_path / "c.mp4", scene(40, (bert, steady(60, 20)), size=(288, 288)), hum(40))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=cut_elsewhere, args=(tmp_path, names, ["c.mp4", "a.mp4"], queue))
    child.start()
    store = ObjectStore(tmp_path / "here")
    sources = [source_at(tmp_path / name) for name in names]
    here = cut_shard("here", sources, dataset_in(tmp_path), store, backend)
    assert queue.get(timeout=120) == (here.key, here.digest)
    child.join(20)
    again = cut_shard("again", sources, dataset_in(tmp_path), store, backend)
    assert (again.key, again.digest, again.is_new) == (here.key, here.digest, False)
    store.verify(here.key)


def test_frames_that_wait_on_disk_give_the_same_bytes(tmp_path, anna, backend, monkeypatch):
    path = write_scene(tmp_path / "long.mp4", scene(130, (anna, sliding((20, 20), (90, 40), 0, 130))), hum(130))
    dataset = dataset_in(tmp_path, ClipRule(length_s="whole", min_tail_s=1.0))
    digests = []
    for store in ("memory", "disk"):
        digests.append(cut_shard("s", [source_at(path)], dataset, ObjectStore(tmp_path / store), backend).digest)
        monkeypatch.setattr(FrameBuffer.__init__, "__defaults__", (1,))
    assert digests[0] == digests[1]


def test_the_key_names_contents_not_paths(tmp_path, anna, backend):
    (tmp_path / "x").mkdir()
    first = write_scene(tmp_path / "a.mp4", scene(30, (anna, steady(60, 20))), hum(30))
    second = tmp_path / "x" / "renamed.mp4"
    second.write_bytes(first.read_bytes())
    results = []
    for path, changes in [(first, {}), (second, {}), (first, {"name": "other"}), (first, {"crop": {"margin": 0.2}})]:
        store = ObjectStore(tmp_path / f"store{len(results)}")
        results.append(cut_shard("s", [source_at(path)], dataset_in(path.parent, **changes), store, backend))
    assert len({(result.key, result.digest) for result in results[:3]}) == 1
    assert results[3].key != results[0].key
