"""`talkset animate` from inputs to the file: the seven ways to drive, the time law, the mark, one line per fault."""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache
from itertools import count
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from flows.cli.animate import animate_app
from flows.cli.edtalk import edtalk_app
from flows.cli.weights import weights_app
from models.edtalk.inference.animator import Animator
from models.edtalk.inference.audio_codes import expression_codes, mouth_codes
from models.edtalk.inference.tracks import frame_order, smooth
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.weights.find import EXPRESSION, MOUTH, expression_model, find_weights, mouth_model
from models.edtalk.weights.mouth_networks import randomise
from storage.emotions import EMOTIONS
from storage.errors import ConfigError, OutOfSpace, PreflightError, TalksetError, WeightsError
from storage.snapshot import Snapshot
from tasks.faces.backend import load_backend
from tasks.media.audio import read_audio
from tasks.media.encode import VideoWriter, write_audio_file
from tasks.portrait.driving_audio import long_mel, read_driving_audio
from tasks.portrait.find import Framing, find_portrait
from tasks.portrait.paste_back import PasteBack
from tests.models.edtalk.trained_runs import SMALL, save_all_stages
from tests.onnx_networks import write_network
from tests.scenes import write_scene
from tests.synthetic_store import build_store

RATE_HZ = 16_000
app = typer.Typer()
app.add_typer(animate_app, name="animate")
app.add_typer(edtalk_app, name="edtalk")
app.add_typer(weights_app, name="weights")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return result.output


def refusal(kind: type[TalksetError], *arguments: object) -> str:
    """The one line of an error of this kind, which the command prints before it fails."""
    result = run(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, kind), result.exception or result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


# ---- inputs, made once


def astronaut() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut())[:300, 60:400]


def shifted(rgb: np.ndarray, pixels: int) -> np.ndarray:
    return np.roll(rgb, pixels, axis=1)


def hum(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits, videos, audio, codes and checkpoints."""
    import cv2

    folder = tmp_path_factory.mktemp("lab")
    face = astronaut()
    cv2.imwrite(str(folder / "face.png"), face[..., ::-1])
    cv2.imwrite(str(folder / "odd.png"), face[:299, :337, ::-1])
    cv2.imwrite(str(folder / "two.png"), np.concatenate([face, face], axis=1)[..., ::-1])
    cv2.imwrite(str(folder / "none.png"), np.full((200, 200, 3), 90, np.uint8))
    write_scene(folder / "drive.mp4", [shifted(face, 2 * i) for i in range(30)], hum(640 * 30, 1))
    write_scene(folder / "mute.mp4", [shifted(face, -i) for i in range(24)])
    write_audio_file(folder / "speech.wav", hum(640 * 40 + 100), RATE_HZ)
    write_audio_file(folder / "silent.wav", np.zeros(16_000, np.float32), RATE_HZ)
    torch.manual_seed(0)
    for name, has_expression in (("full", True), ("plain", False)):
        torch.save({"gen": calm(EDTalk(SMALL, has_expression)).state_dict()}, folder / f"{name}.pt")
    broken = EDTalk(SMALL).state_dict()
    torch.save({"gen": broken | {"dec.to_rgbs.2.bias": torch.full((1, 3, 1, 1), np.nan)}}, folder / "nan.pt")
    audio2lip = Audio2Lip()
    randomise(audio2lip.audio_encoder, torch.randn(64, 1, 80, 16))
    torch.save({"audio2lip": audio2lip.state_dict()}, folder / "Audio2Lip.pt")
    (folder / "edtalk").mkdir()
    for index, name in enumerate(("happy", "sad")):
        codes = np.random.default_rng(index).standard_normal((1, 10)).astype(np.float32)
        np.save(folder / "edtalk" / f"{name}.npy", 3 * codes)
    np.save(folder / "huge.npy", np.full((1, 10), 1e300))
    np.save(folder / "pose.npy", np.random.default_rng(0).standard_normal((17, 6)).astype(np.float32))
    return folder


def calm(model: EDTalk) -> EDTalk:
    with torch.no_grad():
        for to_flow in model.dec.to_flows:
            to_flow.conv.weight.mul_(0.05)
    return model


_load_backend_once = cache(load_backend)


@pytest.fixture(autouse=True)
def _weights(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.animate.load_backend", _load_backend_once)
    monkeypatch.setenv("TALKSET_WEIGHTS", str(lab))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(lab: Path, tmp_path: Path) -> Callable[..., Path]:
    """Animates a file of the laboratory on the CPU with the small checkpoints; by default the full one."""

    def animated(source: str, *options: object, model: str = "full") -> Path:
        out = tmp_path / "new" / "out.mp4"
        names = {path.name for path in lab.iterdir() if path.is_file()}
        given = [lab / str(option) if option in names else option for option in options]
        checkpoints = ("--checkpoint", lab / f"{model}.pt", "--mouth-checkpoint", lab / "Audio2Lip.pt")
        answer("animate", "edtalk", lab / source, "--out", out, "--device", "cpu", *checkpoints, *given)
        return out

    return animated


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[N] mean absolute difference per frame."""
    return np.abs(first.astype(float) - second).mean(axis=(1, 2, 3))


# ---- the file


def test_the_file_obeys_the_time_law_and_says_what_it_is(make, lab: Path) -> None:
    path = make("face.png", "--audio", "speech.wav", "--expression", "happy")
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.average_rate, video.frames) == ("h264", 25, 40)
        assert (audio.codec_context.name, audio.rate, audio.codec_context.channels) == ("aac", RATE_HZ, 1)
        assert audio.duration * audio.time_base == pytest.approx(40 / 25)
        assert round(audio.duration * audio.time_base * RATE_HZ) == 640 * 40
        assert container.metadata["comment"].startswith("synthetic: generated by talkset edtalk ")
        assert "full.pt" in container.metadata["comment"]
        assert str(lab) not in container.metadata["comment"]
        frames = list(container.decode(video))
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(index, 25) for index in range(40)]
    assert (frames[0].width, frames[0].height) == (32, 32)
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert 640 * 40 <= len(samples) < 640 * 40 + 1024, "AAC comes in blocks of 1024"
    assert np.corrcoef(samples[: 640 * 40], hum(640 * 40))[0, 1] > 0.95
    assert [entry.name for entry in path.parent.iterdir()] == ["out.mp4"]


# ---- the seven ways


def test_audio_pose_video_and_expression_video(make) -> None:
    """A: the pose is held at its end; the expression loses its last 20 frames and runs back and forth."""
    path = make(
        "face.png", "--audio", "speech.wav", "--pose", "drive.mp4", "--expression", "drive.mp4", "--save-codes", "codes"
    )
    assert len(decode(path)) == 40
    mouth, pose, expression = (np.load(f"codes/{part}.npy") for part in ("mouth", "pose", "expression"))
    assert (mouth.shape, pose.shape, expression.shape) == ((40, 20), (40, 6), (40, 10))
    assert np.ptp(pose[:30], axis=0).min() > 0
    assert not np.ptp(pose[29:], axis=0).any()
    order = frame_order(30, 40, "mirror-drop-tail")
    assert order.max() == 9
    assert np.array_equal(expression, expression[:10][order])


def test_audio_pose_video_and_named_expression(make) -> None:
    happy, sad = (
        decode(make("face.png", "--audio", "speech.wav", "--pose", "drive.mp4", "--expression", name))
        for name in ("happy", "sad")
    )
    assert len(happy) == 40
    assert difference(happy, sad).min() > 0.5


def test_mouth_pose_and_expression_videos(make) -> None:
    """V: as long as the mouth's video, with its audio."""
    path = make("face.png", "--mouth", "drive.mp4", "--pose", "mute.mp4", "--expression", "mute.mp4")
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(decode(path)) == 30
    assert np.corrcoef(samples[: 640 * 30], hum(640 * 30, 1))[0, 1] > 0.9


def test_mouth_and_pose_videos_and_named_expression(make) -> None:
    path = make(
        "face.png", "--mouth", "mute.mp4", "--pose", "drive.mp4", "--expression", "happy", "--save-codes", "codes"
    )
    with av.open(str(path)) as container:
        assert not container.streams.audio
        assert container.streams.video[0].frames == 24
    assert np.load("codes/pose.npy").shape == (24, 6)


@pytest.mark.parametrize("pose", ["fixed", "drive.mp4"])
@pytest.mark.parametrize("mouth", [("--audio", "speech.wav"), ("--mouth", "mute.mp4")])
def test_the_model_without_expression(make, pose: str, mouth: tuple[str, str]) -> None:
    frames = decode(make("face.png", *mouth, "--pose", pose, "--pose-length", "mirror", model="plain"))
    assert len(frames) == (40 if mouth[0] == "--audio" else 24)
    assert difference(frames[1:], frames[:-1]).max() > 0


def test_the_lips_of_a_video_are_changed(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame is both identity and pose; a video that is too short runs back and forth."""
    monkeypatch.setattr("flows.animate.CRF", 1)
    frames = decode(make("mute.mp4", "--audio", "speech.wav", "--mouth", "fixed", model="plain"))
    assert len(frames) == 40
    order = frame_order(24, 40, "mirror")
    assert order[30] == 16
    assert difference(frames[24:40], frames[order[24:40]]).max() < 4, "the same frames, compressed anew"
    assert difference(frames[:1], frames[12:13]).max() > 4
    spoken = decode(make("mute.mp4", "--audio", "speech.wav", model="plain"))
    assert len(spoken) == 40


# ---- options


def test_intensity_and_change_over_time(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.animate.CRF", 1)

    def frames(*options: str) -> np.ndarray:
        return decode(make("face.png", "--audio", "speech.wav", "--seconds", "0.8", "--mouth", "fixed", *options))

    own, happy, none = frames(), frames("--expression", "happy"), frames("--expression", "happy", "--intensity", "0")
    assert len(own) == 20
    assert difference(own, none).max() < 0.5
    assert difference(own, happy).min() > 2
    changing = frames("--expression", "0:own, 0.6:happy")
    away = difference(changing, own)
    assert away[0] < 1
    assert np.corrcoef(away[:16], np.arange(16))[0, 1] > 0.9
    assert difference(changing, happy)[15:].max() < 1.5
    many = ", ".join(f"{index / 10}:happy*{index % 3}" for index in range(40))
    assert len(many) > 400
    assert len(frames("--expression", many)) == 20


def test_named_expressions_have_their_time_in_a_long_result(make, lab: Path) -> None:
    """The rule for videos that are too short, which by default leaves out their end, is not for names."""
    make("face.png", "--audio", "speech.wav", "--expression", "0:own, 1:happy, 1.4:sad*0.5", "--save-codes", "a")
    make("face.png", "--audio", "speech.wav", "--save-codes", "own")
    own = np.load("own/expression.npy")[0]
    happy, sad = (np.load(lab / "edtalk" / f"{name}.npy")[0] for name in ("happy", "sad"))
    points = np.stack([own, happy, own + 0.5 * (sad - own)])
    at_s = np.arange(40) / 25
    expected = np.stack([np.interp(at_s, [0, 1, 1.4], column) for column in points.T], axis=1)
    np.testing.assert_allclose(np.load("a/expression.npy"), expected, atol=1e-5)


def test_codes_from_files_and_images_and_relative_driving(make) -> None:
    make("face.png", "--audio", "speech.wav", "--pose", "pose.npy", "--expression", "face.png", "--save-codes", "a")
    pose, given = np.load("a/pose.npy"), np.load(Path(os.environ["TALKSET_WEIGHTS"]) / "pose.npy")
    assert np.array_equal(pose, given[frame_order(17, 40, "hold")])
    assert np.load("a/expression.npy").shape == (40, 10)
    make("face.png", "--mouth", "drive.mp4", "--pose", "drive.mp4", "--save-codes", "b")
    make("face.png", "--mouth", "drive.mp4", "--pose", "drive.mp4", "--relative", "--save-codes", "c")
    make("face.png", "--audio", "speech.wav", "--save-codes", "own")
    own, absolute, relative = (np.load(f"{name}/pose.npy") for name in ("own", "b", "c"))
    assert own.shape == (1, 6)
    np.testing.assert_allclose(relative, absolute - absolute[:1] + own, atol=1e-5)
    assert np.abs(relative - absolute).max() > 1e-4


@pytest.mark.parametrize("source", ["face.png", "odd.png", "mute.mp4"])
def test_paste_back_shows_the_whole_source(make, lab: Path, source: str) -> None:
    frames = decode(make(source, "--audio", "speech.wav", "--seconds", "0.4", "--paste-back"))
    portrait = find_portrait(lab / source, lambda: _load_backend_once("dlib"), Framing())
    height, width = portrait.shape
    assert frames.shape == (10, height + height % 2, width + width % 2, 3)
    whole = np.stack([portrait.image] * 10) if portrait.image is not None else decode(lab / source)[:10]
    paste = PasteBack(portrait.shots[0].box, portrait.shape)
    mask = np.zeros(portrait.shape)
    mask[paste.region] = paste.mask
    away = np.abs(frames[:, :height, :width].astype(float) - whole).mean(axis=(0, 3))
    outside = np.ones_like(mask, bool)
    x0, y0, side = portrait.shots[0].box
    outside[max(0, y0 - 8) : y0 + side + 8, max(0, x0 - 8) : x0 + side + 8] = False
    assert away[outside].mean() < 3, "only compression changes it"
    assert away[mask > 0.95].mean() > 10


def test_an_enhancer_doubles_the_image(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.animate.load_enhancer", lambda device: lambda image: image.repeat(2, 0).repeat(2, 1))
    assert decode(make("face.png", "--audio", "speech.wav", "--seconds", "0.2", "--enhance")).shape == (5, 64, 64, 3)


def test_a_network_of_the_weights_folder_enhances(make, tmp_path: Path, monkeypatch) -> None:
    driven = ("face.png", "--audio", "speech.wav", "--seconds", "0.2")
    plain = decode(make(*driven))
    write_network(tmp_path / "gfpgan_1.4.onnx", 64)
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    finer = decode(make(*driven, "--enhance"))
    assert finer.shape == (5, 64, 64, 3)
    # Video halves the resolution of colours: only their means over 8 x 8 px of the small image are alike.
    means = [video.reshape(5, 4, side, 4, side, 3).mean(axis=(2, 4)) for video, side in ((plain, 8), (finer, 16))]
    assert np.abs(means[0] - means[1]).mean() < 4


@pytest.mark.parametrize("rule", ["hold", "mirror", "mirror-drop-tail"])
def test_no_more_of_a_video_is_encoded_than_the_result_needs(make, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driven = (
        "face.png",
        "--pose",
        "drive.mp4",
        "--expression",
        "mute.mp4",
        "--pose-length",
        rule,
        "--expression-length",
    )
    make(*driven, rule, "--seconds", "0.24", "--save-codes", "cut")
    make(*driven, rule, "--save-codes", "whole")
    for part in ("pose", "expression"):
        whole, cut = (np.load(f"{name}/{part}.npy") for name in ("whole", "cut"))
        assert (len(whole), len(cut)) == (30, 6)
        np.testing.assert_allclose(cut, whole[:6], atol=1e-4)
    counts: list[int] = []
    codes = Animator.codes
    monkeypatch.setattr(Animator, "codes", lambda self, images: codes(self, _counted(images, counts)))
    make("face.png", "--pose", "drive.mp4", "--seconds", "0.24")
    assert counts == [1, 26]


def _counted(images: Iterable[np.ndarray], counts: list[int]) -> Iterator[np.ndarray]:
    counts.append(0)
    for image in images:
        counts[-1] += 1
        yield image


def test_inputs_that_are_squares_already(make) -> None:
    frames = decode(make("none.png", "--mouth", "mute.mp4", "--cropped", "--seconds", "0.2"))
    assert frames.shape == (5, 32, 32, 3)


def test_codes_of_single_windows_are_smoothed(make, lab: Path) -> None:
    make("face.png", "--audio", "speech.wav", "--save-codes", "codes")
    samples = read_driving_audio(lab / "speech.wav")
    network = mouth_model(find_weights(MOUTH, str(lab / "Audio2Lip.pt")))
    raw = mouth_codes(network, long_mel(samples), len(samples) // 640)
    np.testing.assert_allclose(np.load("codes/mouth.npy"), smooth(raw), atol=1e-4)
    assert (smooth(raw) - raw).abs().max() > 1e-2


def test_audio_may_go_with_a_mouth_from_elsewhere(make) -> None:
    """As long as the mouth's video; of the audio as much as fits, then silence."""
    path = make("face.png", "--mouth", "mute.mp4", "--audio", "drive.mp4", "--save-codes", "codes")
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert np.load("codes/mouth.npy").shape == (24, 20)
    assert np.corrcoef(samples[: 640 * 24], hum(640 * 30, 1)[: 640 * 24])[0, 1] > 0.9


# ---- runs of this project


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "store"
    build_store(path, clips_per_subject=6, num_frames=(6, 7, 8))
    save_all_stages(path)
    return path


def run_of(store: Path, stage: str) -> Path:
    return next(path for path in (store / "runs").iterdir() if path.name.startswith(f"edtalk-{stage}-"))


def test_a_trained_run_drives_all_from_audio(lab: Path, store: Path, tmp_path: Path) -> None:
    """The networks for mouth, head and expression are those that were trained for the generator."""
    out = tmp_path / "out.mp4"
    common = (
        "animate",
        "edtalk",
        lab / "face.png",
        "--audio",
        lab / "speech.wav",
        "--out",
        out,
        "--checkpoint",
        run_of(store, "expression"),
    )
    answer(*common, "--pose", "generated", "--expression", "generated", "--save-codes", "a")
    assert len(decode(out)) == 40
    pose, expression = np.load("a/pose.npy"), np.load("a/expression.npy")
    samples = read_driving_audio(lab / "speech.wav")
    network = mouth_model(find_weights(MOUTH, str(run_of(store, "audio2mouth"))))
    raw = mouth_codes(network, long_mel(samples), len(samples) // 640)
    np.testing.assert_allclose(
        np.load("a/mouth.npy"), raw, atol=1e-4, err_msg="the temporal network needs no smoothing"
    )
    assert (pose.shape, expression.shape) == ((40, 6), (40, 10))
    assert np.ptp(pose, axis=0).min() > 0
    answer(*common, "--pose", "generated", "--seed", "1", "--expression", "happy", "--save-codes", "b")
    assert not np.array_equal(np.load("b/pose.npy")[1:], pose[1:])
    assert np.array_equal(np.load("b/expression.npy"), np.load("b/expression.npy")[:1].repeat(40, 0))
    answer(*common, "--pose", "generated", "--pose-temperature", "0", "--save-codes", "still")
    assert not np.array_equal(np.load("still/pose.npy")[1:], pose[1:])
    answer(*common, "--pose", "generated", "--pose-temperature", "0", "--seed", "1", "--save-codes", "seeded")
    assert np.array_equal(np.load("still/pose.npy"), np.load("seeded/pose.npy")), "without chance no seed counts"
    answer(*common, "--expression", "angry", "--save-codes", "c")
    assert np.abs(np.load("c/expression.npy") - np.load("b/expression.npy")).max() > 0.1
    with av.open(str(out)) as container:
        assert run_of(store, "expression").name in container.metadata["comment"]
    assert "was trained on angry, happy" in refusal(ConfigError, *common, "--expression", "sad")


def test_emotions_are_spoken_with_the_audio(lab: Path, store: Path, tmp_path: Path) -> None:
    """Against the network itself, given the audio and how much of each emotion every frame has."""
    common = ("animate", "edtalk", lab / "face.png", "--audio", lab / "speech.wav", "--out", tmp_path / "out.mp4")
    common += ("--checkpoint", run_of(store, "expression"), "--save-codes", "codes", "--expression")
    samples = read_driving_audio(lab / "speech.wav")
    network = expression_model(find_weights(EXPRESSION, str(run_of(store, "audio2expression"))))
    vectors = torch.zeros(40, 8)
    vectors[:, EMOTIONS.index("happy")] = 0.5
    answer(*common, "generated+happy*0.5")
    steady = expression_codes(network, 40, vectors, long_mel(samples))
    np.testing.assert_allclose(np.load("codes/expression.npy"), steady, atol=1e-5)
    answer(*common, "generated+0:happy, 1:angry*2")
    at_s = torch.arange(40) / 25
    vectors[:, EMOTIONS.index("happy")] = (1 - at_s).clamp_min(0)
    vectors[:, EMOTIONS.index("angry")] = 2 * at_s.clamp_max(1)
    changing = expression_codes(network, 40, vectors, long_mel(samples))
    np.testing.assert_allclose(np.load("codes/expression.npy"), changing, atol=1e-5)
    assert (changing - steady).abs().max() > 0.1
    assert "was trained on angry, happy" in refusal(ConfigError, *common, "generated+sad")


def test_the_model_file_of_a_run_is_that_run(lab: Path, store: Path, tmp_path: Path) -> None:
    """Published networks and codes would speak of other directions: they are never taken for what was trained here."""
    run = run_of(store, "expression")
    model = next((run / "checkpoints").glob("model-*.safetensors"))
    common = ("animate", "edtalk", lab / "face.png", "--audio", lab / "speech.wav", "--out", tmp_path / "out.mp4")
    for name, checkpoint in (("run", run), ("file", model)):
        answer(*common, "--checkpoint", checkpoint, "--expression", "happy", "--save-codes", name)
    for part in ("mouth", "expression"):
        assert np.array_equal(np.load(f"run/{part}.npy"), np.load(f"file/{part}.npy")), part
    moved = tmp_path / "mine.safetensors"
    shutil.copy(model, moved)
    assert f"was made by run {run.name}" in refusal(WeightsError, *common, "--checkpoint", moved)
    mouth = run_of(store, "audio2mouth")
    alone = (*common, "--checkpoint", moved, "--mouth-checkpoint", mouth)
    answer(*alone)
    assert f"was made by run {run.name}" in refusal(WeightsError, *alone, "--expression", "happy")


def test_a_run_without_a_network_for_expressions_says_so(lab: Path, store: Path, tmp_path: Path) -> None:
    arguments = ("animate", "edtalk", lab / "face.png", "--audio", lab / "speech.wav", "--out", tmp_path / "a.mp4")
    message = refusal(ConfigError, *arguments, "--checkpoint", run_of(store, "mouth_pose"), "--expression", "happy")
    assert "has no expression bank" in message


def test_new_expression_weights_are_measured_and_used(lab: Path, store: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TALKSET_STORES", str(store))
    checkpoint = run_of(store, "expression").name
    dataset = Snapshot.open(store).body.dataset
    listing = answer("edtalk", "expression-weights", dataset, "angry", "--checkpoint", checkpoint, "--out", "mine.npy")
    assert "num_clips: " in listing
    codes = np.load("mine.npy")
    assert (codes.shape, codes.dtype) == ((1, 10), np.float32)
    common = (
        "animate",
        "edtalk",
        lab / "face.png",
        "--audio",
        lab / "speech.wav",
        "--out",
        tmp_path / "a.mp4",
        "--checkpoint",
        checkpoint,
    )
    answer(*common, "--expression", "mine.npy", "--seconds", "0.2", "--save-codes", "c")
    np.testing.assert_allclose(np.load("c/expression.npy"), codes.repeat(5, 0), atol=1e-6)
    arguments = ("edtalk", "expression-weights", dataset, "angry", "--checkpoint", checkpoint)
    assert "is no folder" in refusal(PreflightError, *arguments, "--out", "mine.npy/more.npy")
    assert "no clip labelled 'bored'" in refusal(
        ConfigError, "edtalk", "expression-weights", dataset, "bored", "--checkpoint", checkpoint
    )


def test_published_files_are_imported_listed_and_used(lab: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("TALKSET_WEIGHTS")
    common = (
        "animate",
        "edtalk",
        lab / "face.png",
        "--audio",
        lab / "speech.wav",
        "--out",
        tmp_path / "a.mp4",
        "--seconds",
        "0.2",
    )
    assert "talkset weights import edtalk EDTalk.pt" in refusal(WeightsError, *common)
    absent = answer("weights", "list")
    assert "edtalk: absent; get EDTalk.pt from https://huggingface.co/tanhshuai0219/EDTalk\n" in absent
    listing = answer("weights", "import", "edtalk", lab / "full.pt")
    assert "name: EDTalk\n" in listing
    assert "sha256: " in listing
    assert "talkset weights import edtalk Audio2Lip.pt" in refusal(WeightsError, *common)
    answer("weights", "import", "edtalk", lab / "Audio2Lip.pt")
    answer(*common)
    listing = answer("weights", "list")
    assert "EDTalk: " in listing
    assert "edtalk: at hand" in listing
    assert "edtalk_lip_pose: absent" in listing
    assert "Audio2Lip: " in listing
    assert "not for commercial use" in listing
    assert "dlib68: " in listing
    assert "talkset weights import edtalk" in refusal(WeightsError, *common, "--expression", "happy")
    answer("weights", "import", "edtalk", lab / "edtalk" / "happy.npy")
    answer(*common, "--expression", "happy", "--save-codes", "codes")
    np.testing.assert_allclose(np.load("codes/expression.npy")[0], np.load(lab / "edtalk" / "happy.npy")[0], atol=1e-6)
    assert "expressions of EDTalk: happy" in answer("weights", "list")


# ---- real images and speech


@pytest.mark.parametrize("photo", ["portrait_photo_840x1024.jpg", "portrait_photo_cropped.jpg"])
def test_a_photo_speaks(lab: Path, media: Path, tmp_path: Path, photo: str) -> None:
    """The whole speech of a clip: the time law holds, and the face moves."""
    speech, out = media / "surprise_512_25fps_3s.mp4", tmp_path / "out.mp4"
    checkpoints = ("--checkpoint", lab / "full.pt", "--mouth-checkpoint", lab / "Audio2Lip.pt", "--device", "cpu")
    answer("animate", "edtalk", media / photo, "--audio", speech, "--out", out, *checkpoints)
    track = read_audio(speech)
    assert track is not None
    num_frames = len(track.samples) // 640
    images = decode(out)
    with av.open(str(out)) as container:
        audio = container.streams.audio[0]
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert audio.duration * audio.time_base == pytest.approx(num_frames / 25)
    assert len(images) == num_frames > 50
    assert np.corrcoef(samples[: 640 * num_frames], track.samples[: 640 * num_frames])[0, 1] > 0.9
    assert difference(images[1:], images[:-1]).max() > 0


# ---- one line


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PreflightError, {"source": "none.png"}, "no face found"),
        (PreflightError, {"source": "two.png"}, "2 faces"),
        (PreflightError, {"source": "speech.wav"}, "no video or audio container of a known kind"),
        (PreflightError, {"source": "absent.png"}, "No such file"),
        (PreflightError, {"--audio": "silent.wav"}, "silent"),
        (PreflightError, {"--audio": "mute.mp4"}, "no audio"),
        (PreflightError, {"--audio": "absent.wav"}, "No such file"),
        (PreflightError, {"--pose": "none.png"}, "no face found"),
        (PreflightError, {"--pose": "absent.mp4"}, "No such file"),
        (ConfigError, {"--pose": "edtalk/happy.npy"}, "expected [n, 6]"),
        (ConfigError, {"--expression": "hapy"}, "no expression 'hapy'"),
        (ConfigError, {"--expression": "0:happy,x:sad"}, "write NAME"),
        (WeightsError, {"--expression": "fear"}, "get fear.npy from https://github.com/tanshuai0219/EDTalk"),
        (WeightsError, {"--pose": "generated"}, "nobody has published any"),
        (WeightsError, {"--checkpoint": "Audio2Lip.pt"}, "holds no 'gen'"),
        (WeightsError, {"--checkpoint": "absent.pt"}, "no such file"),
        (WeightsError, {"--mouth-checkpoint": "full.pt"}, "holds no 'audio2lip'"),
        (ConfigError, {"--checkpoint": "edtalk-nothing"}, "0 runs fit it"),
        (ConfigError, {"--out": "out.avi"}, "let its name end in .mp4"),
        (ConfigError, {"--intensity": "nan"}, "--intensity nan"),
        (ConfigError, {"--seconds": "inf"}, "--seconds inf"),
        (ConfigError, {"--expression": "huge.npy"}, "NaN or infinite"),
        (WeightsError, {"--checkpoint": "nan.pt"}, "an image of NaN"),
        (ConfigError, {"--device": "meta"}, "device 'meta'"),
        (PreflightError, {"--mouth": "generated"}, "--mouth generated: No such file or directory; name a video"),
        (ConfigError, {"--device": "cuda:99"}, "device 'cuda:99'"),
        (ConfigError, {"--audio": None}, "nothing says how long"),
        (ConfigError, {"--audio": None, "--pose": "generated"}, "name one with --audio"),
        (
            ConfigError,
            {"--audio": None, "--expression": "generated+sad"},
            "--expression generated+sad follows the audio",
        ),
        (ConfigError, {"--pose-temperature": "-1"}, "--pose-temperature -1"),
        (WeightsError, {"--enhance": ""}, "get gfpgan_1.4.onnx from"),
        (ConfigError, {"--face-backend": "eyes"}, "no face backend"),
    ],
)
def test_what_is_wrong_is_one_line_and_no_file(
    lab: Path, tmp_path: Path, kind: type[TalksetError], options: dict[str, str | None], message: str
) -> None:
    given = {
        "--audio": "speech.wav",
        "--checkpoint": "full.pt",
        "--mouth-checkpoint": "Audio2Lip.pt",
        "--out": "out.mp4",
    }
    given |= {name: value for name, value in options.items() if name != "source"}
    inputs = {"--audio", "--pose", "--expression", "--checkpoint", "--mouth-checkpoint"}
    arguments = ["animate", "edtalk", str(lab / options.get("source", "face.png"))]  # type: ignore[operator]
    for name, value in given.items():
        is_file = name in inputs and value and "." in value
        arguments += [] if value is None else [name, *([str(lab / value) if is_file else value] if value else [])]
    assert message in refusal(kind, *arguments)
    assert not list(tmp_path.glob("out*"))


def test_two_faces_may_be_wanted(make) -> None:
    assert len(decode(make("two.png", "--mouth", "mute.mp4", "--largest-face", "--seconds", "0.2"))) == 5


def test_the_source_is_not_overwritten(lab: Path) -> None:
    before = (lab / "mute.mp4").read_bytes()
    assert "it is read" in refusal(ConfigError, "animate", "edtalk", lab / "mute.mp4", "--out", lab / "mute.mp4")
    assert (lab / "mute.mp4").read_bytes() == before


@pytest.mark.parametrize("option", ["--audio", "--pose", "--expression", "--mouth"])
def test_nothing_that_is_read_is_overwritten(lab: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "link.mp4").symlink_to(lab / "drive.mp4")
    arguments = ("animate", "edtalk", lab / "face.png", option, lab / "drive.mp4", "--out", tmp_path / "link.mp4")
    assert "drive.mp4); name another file" in refusal(ConfigError, *arguments)


def test_codes_that_are_read_are_not_overwritten(lab: Path, tmp_path: Path) -> None:
    arguments = (
        "animate",
        "edtalk",
        lab / "face.png",
        "--pose",
        lab / "pose.npy",
        "--out",
        tmp_path / "a.mp4",
        "--save-codes",
        lab,
    )
    assert "pose.npy would be overwritten" in refusal(ConfigError, *arguments)


@pytest.mark.parametrize("given", ["0:expression.npy, 2:own", "expression.npy*0.5", "0:own,1: ./expression.npy *2"])
def test_codes_that_are_read_among_keyframes_are_not_overwritten(lab: Path, tmp_path: Path, given: str) -> None:
    np.save("expression.npy", np.zeros((1, 10), np.float32))
    before = Path("expression.npy").read_bytes()
    arguments = (
        "animate",
        "edtalk",
        lab / "face.png",
        "--expression",
        given,
        "--save-codes",
        ".",
        "--checkpoint",
        lab / "full.pt",
    )
    message = refusal(ConfigError, *arguments, "--seconds", "0.2", "--out", tmp_path / "out.mp4")
    assert "expression.npy would be overwritten" in message
    assert Path("expression.npy").read_bytes() == before


@pytest.mark.parametrize("at", [0, 2])
def test_what_an_enhancer_says_is_not_said_of_the_result(lab: Path, tmp_path: Path, monkeypatch, at: int) -> None:
    calls = count()

    def enhancer(image: np.ndarray) -> np.ndarray:
        if next(calls) == at:
            raise OSError(errno.EIO, "the enhancer's own file")
        return image

    monkeypatch.setattr("flows.animate.load_enhancer", lambda device: enhancer)
    result = run(*enhanced(lab, tmp_path))
    assert type(result.exception) is OSError
    assert "the enhancer's own file" in str(result.exception)
    assert not list(tmp_path.glob("out*"))


def test_what_the_writer_says_is_said_of_the_result(lab: Path, tmp_path: Path, monkeypatch) -> None:
    def broken(self: VideoWriter, rgb: np.ndarray) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("flows.animate.load_enhancer", lambda device: lambda image: image)
    monkeypatch.setattr(VideoWriter, "write_frame", broken)
    assert "out.mp4: cannot be written (Input/output error)" in refusal(PreflightError, *enhanced(lab, tmp_path))
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("limit_bytes", [0, 2_000, 300_000])
def test_a_full_disk_is_one_line_and_no_file(lab: Path, tmp_path: Path, monkeypatch, limit_bytes: int) -> None:
    """At the first byte, in what is written at the end, and between the frames."""
    noise = np.random.default_rng(0)
    side = 256 if limit_bytes > 10_000 else 32

    def enhancer(image: np.ndarray) -> np.ndarray:
        return noise.integers(0, 256, (side, side, 3), np.uint8)

    monkeypatch.setattr("flows.animate.load_enhancer", lambda device: enhancer)
    answer(*enhanced(lab, tmp_path))  # all that is kept for later runs is now on the disk
    assert (tmp_path / "out.mp4").stat().st_size > limit_bytes
    (tmp_path / "out.mp4").unlink()
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        message = refusal(OutOfSpace, *enhanced(lab, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "out.mp4: no space left" in message
    assert not list(tmp_path.glob("out*"))


def test_a_full_disk_is_reported_whoever_writes(lab: Path, tmp_path: Path, monkeypatch) -> None:
    def enhancer(image: np.ndarray) -> np.ndarray:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flows.animate.load_enhancer", lambda device: enhancer)
    assert "no space left" in refusal(OutOfSpace, *enhanced(lab, tmp_path))


def enhanced(lab: Path, folder: Path) -> list[object]:
    driven = [
        "animate",
        "edtalk",
        lab / "face.png",
        "--pose",
        lab / "pose.npy",
        "--checkpoint",
        lab / "full.pt",
        "--enhance",
    ]
    return [*driven, "--device", "cpu", "--out", folder / "out.mp4"]


def test_an_old_result_survives_a_failure(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"old")
    refusal(
        PreflightError,
        "animate",
        "edtalk",
        lab / "none.png",
        "--audio",
        lab / "speech.wav",
        "--out",
        tmp_path / "out.mp4",
        "--checkpoint",
        lab / "full.pt",
    )
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
