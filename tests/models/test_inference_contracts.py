"""What every inference system must be, whatever it renders: run over the systems that are found, with small networks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import models
from models import inference
from models.edtalk.networks.edtalk import EDTalk
from models.inference import DrivingAudio, Faces, Inputs, Renderer, SystemOptions
from storage.catalog import FaceCrop
from storage.errors import ConfigError
from tasks.portrait.driving_audio import audio_features
from tests.conftest import REPOSITORY
from tests.models import toy
from tests.models.edtalk.trained_runs import SMALL

NUM_FRAMES = 11
# What each system must be given so that it works here, and what it must refuse.
SMALLEST: dict[str, dict[str, Any]] = {"edtalk": {"checkpoint": "small.pt", "mouth": "own", "batch_size": 3}}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "edtalk": ({"pose": "generated"}, {"audio": None}),
    "toy": ({}, {"max_frames": 0}),
    "person": ({}, {"audio": None}),
}


def found_systems() -> tuple[str, ...]:
    before, models.__path__ = models.__path__, [*models.__path__, toy.SYSTEMS]
    try:
        return inference.systems()
    finally:
        models.__path__ = before


each_system = pytest.mark.parametrize("system", found_systems())


@pytest.fixture(autouse=True)
def _small(toy_system: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save({"gen": EDTalk(SMALL).state_dict()}, "small.pt")


def opened(system: str, **more: Any) -> tuple[SystemOptions, Renderer]:
    options = inference.options_of(system)(**SMALLEST.get(system, {}) | more)
    return options, inference.open_system(system, options, torch.device("cpu"), "fp32")


def inputs_for(options: SystemOptions, size_px: int, is_video: bool = False, **more: Any) -> Inputs:
    """A portrait or video of 5 frames, audio of 9 more frames than are wanted."""
    noise = np.random.default_rng(0)
    squares = [noise.integers(0, 256, (size_px, size_px, 3), np.uint8) for _ in range(5 if is_video else 1)]
    faces = Faces(Path("face"), is_video, len(squares), lambda: iter(squares))
    samples = (0.1 * noise.standard_normal(640 * (NUM_FRAMES + 9))).astype(np.float32)
    audio = DrivingAudio(samples, audio_features(samples, options.audio_features()))
    given = {"portrait": faces if options.needs_portrait else None, "audio": audio, "max_frames": NUM_FRAMES}
    return Inputs(**given | {"read_faces": lambda path: faces} | more)


def images_of(system: str, is_video: bool = False) -> list[np.ndarray]:
    options, renderer = opened(system)
    inputs = inputs_for(options, renderer.size_px, is_video)
    rendering = renderer.prepare(inputs)
    squares = list(inputs.portrait.squares()) if inputs.portrait else []
    read = 0

    def in_order() -> Iterator[np.ndarray]:
        nonlocal read
        for index in rendering.portrait_frames if inputs.portrait else ():
            read += 1
            yield squares[index]

    images = []
    for image in rendering.draw(in_order()):
        images.append(image)
        assert not inputs.portrait or read >= min(len(images), len(rendering.portrait_frames))
    assert len(images) == rendering.num_frames
    return images


def test_systems_are_found_where_they_lie() -> None:
    assert set(inference.systems()) >= {"edtalk", "toy", "person"}
    with pytest.raises(ConfigError, match="no system 'emogene2' can animate; there are edtalk"):
        inference.options_of("emogene2")


@each_system
def test_options_are_strict_frozen_and_documented(system: str) -> None:
    kind = inference.options_of(system)
    assert issubclass(kind, SystemOptions)
    assert (kind.model_config.get("frozen"), kind.model_config.get("extra")) == (True, "forbid")
    assert (kind.__doc__ or "").partition("\n")[0].endswith(".")
    for name, field in kind.model_fields.items():
        assert field.description, name
        kinds = set(get_args(field.annotation)) - {type(None)} or {field.annotation}
        assert all(one in (str, int, float, bool, Path) or isinstance(one, str) for one in kinds), name


def test_options_import_no_networks() -> None:
    code = "import models.inference as i; [i.options_of(s) for s in i.systems()]; import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@each_system
def test_the_renderer_says_what_it_is(system: str) -> None:
    renderer = opened(system)[1]
    assert renderer.name
    assert "/" not in renderer.name
    assert len(renderer.sha256) == 64
    assert renderer.size_px % 2 == 0
    assert isinstance(renderer.face_crop, FaceCrop)


@pytest.mark.parametrize("is_video", [False, True])
@each_system
def test_images_are_as_many_as_promised_square_and_always_the_same(system: str, is_video: bool) -> None:
    size_px = opened(system)[1].size_px
    images = images_of(system, is_video)
    assert len(images) == NUM_FRAMES
    assert {(image.shape, image.dtype) for image in images} == {((size_px, size_px, 3), np.dtype(np.uint8))}
    assert np.array_equal(images, images_of(system, is_video))


@each_system
def test_what_it_cannot_do_is_refused_in_one_line(system: str) -> None:
    given, changes = REFUSED[system]
    options, renderer = opened(system, **given)
    with pytest.raises(ConfigError) as error:
        renderer.prepare(inputs_for(options, renderer.size_px, **changes))
    assert "\n" not in str(error.value)
