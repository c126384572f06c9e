"""Published files taken into use: what is written is what was read, and inference finds it."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.edtalk.inference.named_expressions import expression
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.shape import Shape
from models.edtalk.weights.find import GENERATOR, MOUTH, find_weights, generator, mouth_model
from models.edtalk.weights.import_published import NAMES, import_published, imported
from models.edtalk.weights.parent_state import discriminator_of
from storage.errors import ConfigError, WeightsError
from storage.keys import sha256_file
from storage.weights import listed
from tests.models.edtalk.trained_runs import SMALL


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TALKSET_WEIGHTS", raising=False)
    return tmp_path / "cache" / "talkset" / "weights" / "edtalk"


def save(path: Path, **parts: nn.Module) -> Path:
    content = {name: module.state_dict() for name, module in parts.items()}
    torch.save(content | {"args": argparse.Namespace(lr=0.002), "g_optim": {"state": {0: torch.zeros(1)}}}, path)
    return path


@pytest.mark.parametrize(
    ("name", "model"),
    [("EDTalk", EDTalk(SMALL)), ("EDTalk_lip_pose", EDTalk(SMALL, has_expression=False)), ("LIA", Lia(SMALL))],
)
def test_a_generator_is_imported_under_its_name(tmp_path: Path, cache: Path, name: str, model: nn.Module) -> None:
    path = save(tmp_path / "some name.pt", gen=model)
    answer = import_published("edtalk", path)
    target = cache / f"{name}.safetensors"
    assert (answer["name"], "discriminator" in answer) == (name, False)
    assert answer["path"] == str(target)
    assert answer["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert answer["source_sha256"] == sha256_file(path)[0]
    assert answer["sha256"] == sha256_file(target)[0]
    assert "commercial" in str(answer["licence"])
    assert [entry.name for entry in cache.iterdir()] == [target.name], "no temporary file is left"
    assert imported() == [{key: str(answer[key]) for key in ("name", "path", "licence", "source_sha256")}]
    state = find_weights(GENERATOR, str(target)).state
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "model"),
    [("EDTalk", EDTalk(SMALL)), ("EDTalk_lip_pose", EDTalk(SMALL, has_expression=False)), ("LIA", Lia(SMALL))],
)
def test_training_goes_on_with_the_discriminator_of_the_file(
    tmp_path: Path, cache: Path, name: str, model: nn.Module
) -> None:
    dis = Discriminator(SMALL)
    answer = import_published("edtalk", save(tmp_path / "000100.pt", gen=model, dis=dis))
    assert (answer["name"], answer["discriminator"]) == (name, "kept")
    assert answer["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    tensors = load_file(cache / f"{name}.safetensors")
    found = discriminator_of(tensors, SMALL, name)
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in dis.state_dict().items())
    assert {key.partition(".")[0] for key in tensors} == {"gen", "dis"}
    assert find_weights(GENERATOR, str(cache / f"{name}.safetensors")).state.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("dis", "reason"),
    [
        (nn.Linear(1, 1), "2 unknown (weight, bias)"),
        (Discriminator(Shape(size_px=32, width=1 / 16)), "of another shape"),
        (Discriminator(Shape(size_px=64, width=1 / 32)), "unknown"),
        (nn.Identity(), "missing"),
    ],
)
def test_a_discriminator_that_does_not_fit_is_left_out_and_reported(
    tmp_path: Path, cache: Path, dis: nn.Module, reason: str
) -> None:
    answer = import_published("edtalk", save(tmp_path / "EDTalk.pt", gen=EDTalk(SMALL), dis=dis))
    line = str(answer["discriminator"])
    assert line.startswith("left out, training starts with a new one: dis: its tensors are not those of Discriminator")
    assert reason in line
    assert "\n" not in line
    assert {key.partition(".")[0] for key in load_file(cache / "EDTalk.safetensors")} == {"gen"}


def test_inference_finds_what_was_imported_and_prefers_the_full_model(tmp_path: Path) -> None:
    audio = Audio2Lip()
    import_published("edtalk", save(tmp_path / "a.pt", gen=EDTalk(SMALL, has_expression=False)))
    assert find_weights(GENERATOR).name == "EDTalk_lip_pose.safetensors"
    import_published("edtalk", save(tmp_path / "b.pt", gen=EDTalk(SMALL)))
    import_published("edtalk", save(tmp_path / "c.pt", audio2lip=audio))
    assert generator(find_weights(GENERATOR)).has_expression
    found = mouth_model(find_weights(MOUTH))
    assert all(torch.equal(value, audio.state_dict()[key]) for key, value in found.state_dict().items())
    assert {entry["name"] for entry in imported()} == {"EDTalk", "EDTalk_lip_pose", "Audio2Lip"}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_an_entry_that_says_where_to_get_it(name: str) -> None:
    entry = listed()[name.lower()]
    assert entry.is_noncommercial
    assert "not for commercial use" in entry.licence
    assert (entry.url, entry.sha256) == ("", ""), "no file was seen: nothing is pinned, nothing is fetched"


def test_a_tensor_too_few_or_too_many_is_refused(tmp_path: Path, cache: Path) -> None:
    model = EDTalk(SMALL)
    state = model.state_dict()
    del state["fc.3.bias"]
    torch.save({"gen": state | {"extra": torch.zeros(1)}}, tmp_path / "EDTalk.pt")
    with pytest.raises(WeightsError, match=r"1 missing \(fc.3.bias\); 1 unknown \(extra\)"):
        import_published("edtalk", tmp_path / "EDTalk.pt")
    assert not cache.exists()


def test_other_systems_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no published weights are known for 'emogene'"):
        import_published("emogene", tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="no such file"):
        import_published("edtalk", tmp_path / "x.pt")
    torch.save({"model": {}}, tmp_path / "y.pt")
    with pytest.raises(WeightsError, match="it holds model"):
        import_published("edtalk", tmp_path / "y.pt")


def test_codes_of_expressions_are_imported_by_their_names(tmp_path: Path, cache: Path) -> None:
    codes = np.arange(10, dtype=np.float32)[None]
    np.save(tmp_path / "disgusted.npy", codes)
    answer = import_published("edtalk", tmp_path / "disgusted.npy")
    assert (answer["name"], answer["path"]) == ("disgust", str(cache / "disgusted.npy"))
    assert "commercial" in str(answer["licence"])
    assert "replaced" not in answer
    assert np.array_equal(expression("disgust"), codes)
    np.save(tmp_path / "bored.npy", codes)
    with pytest.raises(ConfigError, match=r"bored\.npy: named after no emotion; there are angry, "):
        import_published("edtalk", tmp_path / "bored.npy")
    np.save(tmp_path / "sad.npy", codes[:, :6])
    with pytest.raises(ConfigError, match=r"expected \[n, 10\]"):
        import_published("edtalk", tmp_path / "sad.npy")
    assert [path.name for path in cache.iterdir()] == ["disgusted.npy"]


def test_a_replaced_file_is_reported(tmp_path: Path) -> None:
    first = import_published("edtalk", save(tmp_path / "a.pt", gen=EDTalk(SMALL)))
    second = import_published("edtalk", save(tmp_path / "b.pt", gen=EDTalk(SMALL)))
    assert "replaced" not in first
    assert second["replaced"] == first["sha256"] != second["sha256"]
