"""The demo against its own truth, measured from the decoded files: faces, mouths, blinks, sound, resumption."""

import importlib.util
import json
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import dlib
import numpy as np
import pytest

import tasks.demo
from tasks.demo import AUDIO_RATE_HZ, make_demo
from tasks.demo.motion import EXPRESSIONS
from tasks.demo.trees import takes

SMALL = [take.stem for take in takes("small")]
SHORT = replace(takes("small")[-1], num_frames=60)  # one 640x360 take of 2.4 s with embedded sound


@cache
def predictor():
    spec = importlib.util.find_spec("face_recognition_models")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return dlib.shape_predictor(str(folder / "models/shape_predictor_68_face_landmarks.dat"))


@pytest.fixture(scope="module")
def demo(small_demo):
    return small_demo


@pytest.fixture(scope="module")
def measured(demo):
    """Per stem: [N, 68, 2] landmarks of the decoded frames, NaN where HOG found not exactly one face."""
    return {stem: measure(demo.video(stem)) for stem in demo.stems}


def measure(path: Path) -> np.ndarray:
    detector, rows = dlib.get_frontal_face_detector(), []
    for gray in luma(path):
        step = gray.shape[0] // 360
        boxes = detector(cv2.resize(gray, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA), 0)
        if len(boxes) != 1:
            rows.append(np.full((68, 2), np.nan))
            continue
        box = [side * step for side in (boxes[0].left(), boxes[0].top(), boxes[0].right(), boxes[0].bottom())]
        rows.append([(point.x, point.y) for point in predictor()(gray, dlib.rectangle(*box)).parts()])
    return np.array(rows, float)


def luma(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [np.ascontiguousarray(frame.to_ndarray()[: frame.height]) for frame in container.decode(video=0)]


def sound(root: Path, truth: dict) -> np.ndarray:
    path = root / (truth["audio"] or truth["stem"] + ".mp4")
    with av.open(str(path)) as container:
        assert container.streams.audio[0].rate == AUDIO_RATE_HZ
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def iod(marks: np.ndarray) -> np.ndarray:
    return np.linalg.norm(marks[:, 45] - marks[:, 36], axis=1)


def lag_of_sound(samples: np.ndarray, truth: dict) -> int:
    """25-fps frames by which loudness follows the mouth: best correlation over -12..12."""
    hop = AUDIO_RATE_HZ // 25
    count = min(len(samples) // hop, int(truth["times_s"][-1] * 25))
    starts = np.arange(count) * hop
    loud = np.array([np.sqrt(np.mean(samples[max(0, s - hop // 2) : s + hop // 2] ** 2)) for s in starts])
    mouth = np.interp(np.arange(count) / 25, truth["times_s"], truth["mouth_opening"])

    def correlation(lag: int) -> float:
        first, last = max(0, -lag), min(count, count - lag)
        return float(np.corrcoef(mouth[first:last], loud[first + lag : last + lag])[0, 1])

    return max(range(-12, 13), key=correlation)


def only(monkeypatch, *plan):
    monkeypatch.setattr(tasks.demo, "takes", lambda size: list(plan))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layouts_are_those_of_mead_and_hdtf(demo):
    for stem in demo.stems:
        truth = demo.take(stem)
        with av.open(str(demo.video(stem))) as container:
            video = container.streams.video[0]
            found = (video.width, video.height, video.average_rate, video.frames, len(container.streams))
        if stem.startswith("MEAD/"):
            assert found == (1920, 1080, Fraction(30), 48, 1)
            expected = stem.replace("video/front", "audio") + ".m4a"
            assert truth["audio"] == expected
            assert (demo.root / expected).is_file()
        else:
            assert found == (640, 360, Fraction(25), 135, 2)
        assert abs(len(sound(demo.root, truth)) / AUDIO_RATE_HZ - len(truth["times_s"]) * (1 / found[2])) < 0.05
    listed = json.loads((demo.root / "DEMO.json").read_text())["files"]
    files = {str(path.relative_to(demo.root)) for path in demo.root.rglob("*") if path.is_file()}
    assert files == {*listed, "DEMO.json"}


def test_the_full_plan():
    """Two subjects with every emotion, takes of 2.4 to 4 s, two HDTF videos over 12 s whose last 5-s clip is short."""
    plan = takes("full")
    mead, hdtf = ([take for take in plan if take.stem.startswith(name)] for name in ("MEAD", "HDTF"))
    assert len({path for take in plan for path in take.paths}) == 3 * len(mead) + 2 * len(hdtf)
    for subject in ("M003", "W011"):
        assert {take.emotion for take in mead if subject in take.stem} == set(EXPRESSIONS)
    assert all(2.4 <= take.num_frames / take.fps <= 4 for take in mead)
    assert all(f"/{take.emotion}/level_{take.level}/" in take.stem for take in mead)
    assert all(take.level == 1 for take in mead if take.emotion == "neutral")
    assert {take.fps for take in hdtf} == {25, 30}
    assert all(take.num_frames / take.fps > 12 and (take.num_frames / take.fps) % 5 for take in hdtf)


@pytest.mark.parametrize("stem", SMALL)
def test_one_face_in_every_frame_of_the_promised_size(demo, measured, stem):
    marks, truth = measured[stem], demo.take(stem)
    assert np.isfinite(marks).all()
    assert np.abs(np.median(iod(marks)) / truth["iod_px"] - 1) < 0.06
    assert np.linalg.norm(marks.mean(axis=(0, 1)) - np.mean(truth["landmarks"], axis=0)) < 0.15 * truth["iod_px"]


@pytest.mark.parametrize("stem", SMALL)
def test_the_inner_lips_open_as_the_truth_says(demo, measured, stem):
    marks, truth = measured[stem], demo.take(stem)
    gap = np.linalg.norm(marks[:, 66] - marks[:, 62], axis=1) / iod(marks)
    opening = np.array(truth["mouth_opening"])
    assert np.corrcoef(gap, opening)[0, 1] >= 0.9
    assert 0.6 < np.polyfit(opening, gap, 1)[0] < 1.4
    assert opening.min() >= 0
    assert np.ptp(opening) > 0.1


@pytest.mark.parametrize("stem", SMALL)
def test_eyes_close_with_the_blinks(demo, stem):
    """The dark iris gives way to skin (measured in pixels, because glasses blind the predictor)."""
    truth = demo.take(stem)
    blink, still = np.array(truth["blink"]), np.array(truth["landmarks"])
    centre, reach = still[36:42].mean(axis=0), 0.10 * truth["iod_px"]
    open_frame, shut_frame = int(np.argmin(blink)), int(np.argmax(blink))
    frames = luma(demo.video(stem))

    def darkest(index: int) -> float:
        move = np.array(truth["shift"][index]) * truth["iod_px"]
        x0, y0 = (centre + move - [reach, 1.3 * reach]).astype(int)
        x1, y1 = (centre + move + [reach, 0.3 * reach]).astype(int)
        return float(np.percentile(frames[index][y0:y1, x0:x1], 10))

    assert blink.max() > 0.8
    assert darkest(shut_frame) > darkest(open_frame) + 8


@pytest.mark.parametrize("stem", [stem for stem in SMALL if "M003" not in stem])
def test_eye_opening_follows_the_blinks(demo, measured, stem):
    marks, blink = measured[stem], np.array(demo.take(stem)["blink"])
    opening = np.linalg.norm(marks[:, [37, 38, 43, 44]] - marks[:, [41, 40, 47, 46]], axis=2).mean(axis=1) / iod(marks)
    assert np.corrcoef(opening, blink)[0, 1] < -0.7
    assert opening[blink > 0.9].mean() < 0.75 * opening[blink < 0.05].mean()


@pytest.mark.parametrize("stem", SMALL)
def test_the_head_moves_as_the_truth_says(demo, measured, stem):
    """Optical flow of the outer eye corners and the nose: roll in degrees, and the nose's lead over the eyes by yaw."""
    truth, frames = demo.take(stem), luma(demo.video(stem))
    is_open = np.array(truth["blink"]) < 0.02
    roll, yaw = np.array(truth["roll_deg"])[is_open], np.array(truth["yaw_deg"])[is_open]
    start = measured[stem][0][[36, 45, 29, 30]].astype(np.float32)[:, None]
    window = (int(truth["iod_px"] / 5) | 1,) * 2
    shown = [frame for frame, shows_eyes in zip(frames, is_open, strict=True) if shows_eyes]
    tracks = np.array(
        [cv2.calcOpticalFlowPyrLK(frames[0], frame, start, None, winSize=window)[0][:, 0] for frame in shown]
    )
    found = np.degrees(np.arctan2(*(tracks[:, 1] - tracks[:, 0]).T[::-1]))
    error = (found - found.mean()) - (roll - roll.mean())
    eyes, nose = tracks[:, :2].mean(axis=1), tracks[:, 2:].mean(axis=1)
    lead = ((nose - eyes)[:, 0] + (nose - eyes)[:, 1] * np.radians(roll)) / truth["iod_px"]
    assert np.abs(error).max() < 0.6
    assert np.corrcoef(lead, yaw)[0, 1] > 0.95
    assert 0.2 < np.polyfit(np.radians(yaw), lead, 1)[0] < 0.4


@pytest.mark.parametrize("stem", SMALL)
def test_sound_and_mouth_go_together(demo, stem):
    truth = demo.take(stem)
    assert truth["av_offset_frames"] == 0
    assert lag_of_sound(sound(demo.root, truth), truth) == 0


@pytest.mark.parametrize("offset", [4, -4])
@pytest.mark.parametrize("index", [0, -1])
def test_the_offset_put_in_is_the_offset_found(tmp_path, monkeypatch, offset, index):
    only(monkeypatch, replace(takes("small")[index], num_frames=90, width_px=640, height_px=360))
    demo = make_demo(tmp_path, av_offset_frames=offset)
    truth = demo.take(demo.stems[0])
    assert truth["av_offset_frames"] == offset
    assert lag_of_sound(sound(tmp_path, truth), truth) == offset


def test_only_the_sound_depends_on_the_offset(tmp_path, monkeypatch):
    only(monkeypatch, replace(takes("small")[0], num_frames=10, width_px=640, height_px=360))
    early, late = (make_demo(tmp_path / str(offset), av_offset_frames=offset) for offset in (-3, 3))
    stem = early.stems[0]
    assert early.video(stem).read_bytes() == late.video(stem).read_bytes()
    assert sound(early.root, early.take(stem)).std() > 0.01


def test_sound_is_speech_like(demo):
    """Energy between 100 Hz and 4 kHz, a peak below full scale, pauses that are quiet and not digital silence."""
    samples = sound(demo.root, demo.take(SMALL[-1]))
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / AUDIO_RATE_HZ)
    assert power[(hz > 80) & (hz < 4000)].sum() > 0.95 * power.sum()
    assert 0.3 < np.abs(samples).max() <= 1
    loud = np.sqrt(np.mean(samples[: len(samples) // 960 * 960].reshape(-1, 960) ** 2, axis=1))
    assert np.percentile(loud, 5) < 0.05 * loud.max()
    assert loud[3:-3].min() > 1e-6


def test_a_second_call_does_nothing(demo, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in demo.root.rglob("*")}
    monkeypatch.setattr(tasks.demo, "_make_take", None)
    calls = []
    again = make_demo(demo.root, size="small", progress=lambda done, total: calls.append(done))
    assert (again, calls) == (demo, [])
    assert {path: path.stat().st_mtime_ns for path in demo.root.rglob("*")} == before


def test_same_seed_same_bytes_however_many_processes(tmp_path, monkeypatch):
    only(monkeypatch, SHORT, replace(SHORT, stem="HDTF/RD_Radio1_000", portrait="hopper", num_frames=20))
    calls = []
    make_demo(tmp_path / "a", seed=1, progress=lambda done, total: calls.append((done, total)))
    make_demo(tmp_path / "b", seed=1, num_processes=2)
    make_demo(tmp_path / "c", seed=2)
    first, second, third = (contents(tmp_path / name) for name in "abc")
    assert calls == [(0, 2), (1, 2), (2, 2)]
    assert first == second
    assert first.keys() == third.keys()
    assert first[SHORT.video] != third[SHORT.video]


def test_a_damaged_or_other_demo_is_made_again(tmp_path, monkeypatch):
    short = replace(SHORT, num_frames=5)
    only(monkeypatch, short, replace(short, stem="HDTF/WRA_Old_000"))
    make_demo(tmp_path)
    whole = contents(tmp_path)
    (tmp_path / short.video).write_bytes(b"cut short")
    make_demo(tmp_path)
    assert contents(tmp_path) == whole
    (tmp_path / "HDTF/mine.mp4").write_bytes(b"not ours")
    only(monkeypatch, short)
    make_demo(tmp_path, seed=5)
    assert contents(tmp_path).keys() == {short.video, short.truth, "DEMO.json", "HDTF/mine.mp4"}


def test_a_kill_leaves_nothing_half_written_under_a_final_name(tmp_path, monkeypatch):
    plan = [replace(SHORT, stem=f"HDTF/WDA_Demo{i}_000", num_frames=40) for i in range(4)]
    code = (
        "import dataclasses, os, pathlib, signal, sys, tasks.demo as d\n"
        "s = dataclasses.replace(d.takes('small')[-1], num_frames=40)\n"
        "d.takes = lambda size: [dataclasses.replace(s, stem=f'HDTF/WDA_Demo{i}_000') for i in range(4)]\n"
        "class Killed(d.VideoWriter):\n"
        "    count = 0\n"
        "    def write_yuv(self, *planes):\n"
        "        super().write_yuv(*planes)\n"
        "        Killed.count += 1\n"
        "        if Killed.count == 60:\n"  # half of the second take
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "d.VideoWriter = Killed\n"
        "d.make_demo(pathlib.Path(sys.argv[1]))"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "HDTF/WDA_Demo1_000.mp4.partial").exists()
    assert not (tmp_path / "DEMO.json").exists()
    finished = sorted(path.name for path in tmp_path.glob("HDTF/*.mp4"))
    assert finished == ["WDA_Demo0_000.mp4"]
    assert all(len(luma(tmp_path / "HDTF" / name)) == 40 for name in finished)
    only(monkeypatch, *plan)
    make_demo(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    assert all(len(luma(tmp_path / take.video)) == 40 for take in plan)


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="no demo of size 'huge'; use one of full, small"):
        make_demo(tmp_path, size="huge")
    with pytest.raises(ValueError, match="av_offset_frames=26: at most 25"):
        make_demo(tmp_path, av_offset_frames=26)
    assert not list(tmp_path.iterdir())
