"""Enhancers of installed packages; small real networks in ONNX form against closed forms; each fault is one line."""

import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import cv2
import numpy as np
import pytest

from storage.errors import ConfigError, TalksetError, WeightsError
from tasks.portrait import enhance
from tests.onnx_networks import write_network


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is looked for, in a folder of weights that is empty at first."""
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "gfpgan_1.4.onnx"


def noise(side_px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)


def smooth(side_px: int) -> np.ndarray:
    """Colours that change slowly, another way in each channel."""
    x = (np.arange(side_px) + 0.5) / side_px
    channels = np.broadcast_arrays(255 * x[None], 255 * x[:, None], 255 - 200 * x[None])
    return np.rint(np.stack(channels, axis=2)).astype(np.uint8)


def refusal(kind: type[TalksetError], device: str = "cpu") -> str:
    with pytest.raises(kind) as error:
        enhance.load_enhancer(device)(noise(32))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- enhancers of installed packages

OFFERED = (("zoom", "none"), ("plain", "load_doubled"))


def doubled(image: np.ndarray) -> np.ndarray:
    return image.repeat(2, 0).repeat(2, 1)


def load_doubled(device: str):
    assert device == "cpu"
    return doubled


def offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if packages offered two enhancers, of which the first by name works."""
    points = [EntryPoint(name, f"{__name__}:{function}", enhance.GROUP) for name, function in OFFERED]
    monkeypatch.setattr(enhance, "entry_points", lambda group: EntryPoints(points).select(group=group))


def test_the_first_by_name_of_the_installed_enhancers_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(enhance.load_enhancer("cpu")(image), doubled(image))


# ---- what it makes


def test_identity_gives_the_image_at_twice_its_size(weights: Path) -> None:
    write_network(weights, 64)
    image = noise(32)
    made = enhance.load_enhancer("cpu")(image)
    assert made.dtype == np.uint8
    assert np.array_equal(made, cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC))


def test_every_value_survives_the_way_in_and_out(weights: Path) -> None:
    write_network(weights, 512)
    values = np.arange(256, dtype=np.uint8)
    flat = np.broadcast_to(values[:, None, None, None], (256, 2, 2, 3))
    enhancer = enhance.load_enhancer("cpu")
    assert all(np.array_equal(enhancer(tile), np.full((4, 4, 3), tile[0, 0, 0])) for tile in flat[::15])
    assert enhancer(flat[255]).min() == 255
    assert enhancer(flat[0]).max() == 0


@pytest.mark.parametrize("scale", [(0.5, -1.0, 0.25), (3.0, 1.0, 1.0)])
def test_channels_are_red_green_blue_in_minus_one_to_one(weights: Path, scale: Sequence[float]) -> None:
    shift = (0.25, 0.0, -0.5)
    write_network(weights, 64, scale, shift)
    image = smooth(32)
    given = cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC) / 127.5 - 1
    expected = (np.clip(given * scale + shift, -1, 1) + 1) * 127.5
    assert np.abs(enhance.load_enhancer("cpu")(image) - expected).max() <= 0.501


@pytest.mark.parametrize("side_px", [16, 24, 48, 96, 256])
def test_the_size_is_that_of_the_image_not_of_the_network(weights: Path, side_px: int) -> None:
    write_network(weights, 64)
    made = enhance.load_enhancer("cpu")(smooth(side_px))
    assert made.shape == (2 * side_px, 2 * side_px, 3)
    assert np.abs(made.astype(int) - smooth(2 * side_px)).mean() < 2.5


def test_a_network_may_draw_larger_than_it_looks_and_leave_the_batch_open(weights: Path) -> None:
    write_network(weights, 32, batch="batch", factor=2)
    image = noise(32)
    assert np.array_equal(enhance.load_enhancer("cpu")(image), image.repeat(2, 0).repeat(2, 1))


def test_an_installed_package_comes_first(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_network(weights, 64, scale=(0.0, 0.0, 0.0))
    offer(monkeypatch)
    assert np.array_equal(enhance.load_enhancer("cpu")(noise(8)), doubled(noise(8)))


def test_nothing_is_sent_anywhere(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    write_network(weights, 16)
    enhance.load_enhancer("cpu")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


# ---- one line


def test_a_missing_file_is_reported_with_page_and_licence(weights: Path) -> None:
    line = refusal(WeightsError)
    assert "get gfpgan_1.4.onnx from https://github.com/TencentARC/GFPGAN" in line
    assert "not for commercial use" in line


@pytest.mark.parametrize("part", [slice(0), slice(40), slice(-30), slice(30, None)])
def test_a_damaged_file_is_named(weights: Path, part: slice, capfd: pytest.CaptureFixture[str]) -> None:
    write_network(weights, 64)
    weights.write_bytes(weights.read_bytes()[part])
    assert f"{weights}: not a network that onnxruntime can load" in refusal(WeightsError)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("form", "found"),
    [
        ({"shape": (1, 3, 64, 32)}, "tensor(float) [1, 3, 64, 32]"),
        ({"shape": (1, 64, 64, 3)}, "tensor(float) [1, 64, 64, 3]"),
        ({"shape": (1, 3, "h", "w")}, "tensor(float) [1, 3, 'h', 'w']"),
        ({"shape": (4, 3, 64, 64)}, "tensor(float) [4, 3, 64, 64]"),
        ({"shape": (3, 64, 64)}, "tensor(float) [3, 64, 64]"),
        ({"is_half": True}, "tensor(float16) [1, 3, 64, 64]"),
        ({"has_fidelity": True}, "fidelity: tensor(float) [1]"),
    ],
)
def test_a_network_of_another_form_is_refused(weights: Path, form: dict, found: str) -> None:
    write_network(weights, 64, **form)
    line = refusal(WeightsError)
    assert str(weights) in line
    assert found in line
    assert line.endswith("expected one input tensor(float) [1, 3, T, T]")


def test_what_is_made_must_be_an_image(weights: Path) -> None:
    write_network(weights, 64, made=(1, 3, 32, 128))
    assert f"{weights}: the network made [1, 3, 32, 128]" in refusal(WeightsError)


def test_what_cannot_work_is_one_line(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_network(weights, 64, factor=0)
    assert f"{weights}: not a network that onnxruntime can load" in refusal(WeightsError)
    write_network(weights, 64, batch="batch", made=(7, 3, 64, 64))
    assert f"{weights}: the network cannot be run" in refusal(WeightsError)
    assert capfd.readouterr().err == ""


def test_nan_is_no_image(weights: Path) -> None:
    write_network(weights, 64, scale=(1.0, np.nan, 1.0))
    assert f"{weights}: the network made an image of NaN" in refusal(WeightsError)


def test_without_onnxruntime_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enhance, "find_spec", lambda _name: None)
    assert "pip install -e '.[enhance]'" in refusal(ConfigError)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_gpu_that_onnxruntime_cannot_use_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    write_network(weights, 64)
    for offered in (["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]):
        # The second: the code for GPUs is there, the libraries that it needs are not.
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda offered=offered: offered)
        assert "install onnxruntime-gpu, or use --device cpu" in refusal(ConfigError, "cuda:0")


def test_the_gpu_is_the_one_that_was_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    asked = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path: Path, options: onnxruntime.SessionOptions, providers: list) -> None:
            asked.extend(providers)
            super().__init__(path, options, ["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    write_network(weights, 64)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert enhance.load_enhancer("cuda:1")(noise(32)).shape == (64, 64, 3)
    assert asked == [("CUDAExecutionProvider", {"device_id": "1"})]
