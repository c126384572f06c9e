"""Files in the published form: read, converted, refused."""

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.shape import Shape
from models.edtalk.weights.published_checkpoints import NOT_IN_LIA, fit_state, lia_to_edtalk, read_codes, read_parts
from storage.errors import ConfigError, WeightsError

SMALL = Shape(size_px=16, width=1 / 64, latent_dim=48)


def save(path: Path, **parts: object) -> Path:
    """As the released trainers do, with optimiser states and a pickled Namespace."""
    rest = {"g_optim": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.0016}]}}
    torch.save(parts | rest | {"args": argparse.Namespace(batch_size=4, lr=0.002, path=None, tags=["a"])}, path)
    return path


def read(path: Path, part: str = "gen") -> dict[str, torch.Tensor]:
    return read_parts(path, (part,))[part]


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("has_expression", [True, False])
def test_a_file_in_the_published_form_gives_the_model_back(tmp_path: Path, has_expression: bool) -> None:
    model, loaded = EDTalk(SMALL, has_expression), EDTalk(SMALL, has_expression)
    assert not same(model, loaded)
    fit_state(loaded, read(save(tmp_path / "EDTalk.pt", gen=model.state_dict())), "EDTalk.pt", optional=())
    assert same(model, loaded)


def test_the_rgb_residual_may_be_added_to_a_published_model(tmp_path: Path) -> None:
    model, loaded, image = EDTalk(SMALL), EDTalk(SMALL, has_rgb_residual=True), torch.rand(1, 3, 16, 16)
    fit_state(loaded, read(save(tmp_path / "EDTalk.pt", gen=model.state_dict())), "EDTalk.pt")
    torch.testing.assert_close(loaded(image, image)[0], model(image, image)[0])


def test_what_lies_beside_is_given_with_what_is_wanted_only(tmp_path: Path) -> None:
    one = {"a": torch.ones(1)}
    for kept, dis in ((one, one), ({}, {}), ({}, {"a": "text"}), ({}, None)):
        path = save(tmp_path / "EDTalk.pt", gen=one, dis=dis)
        assert read_parts(path, ("gen", "audio2lip"), ("dis",)) == {"gen": one, "dis": kept}
    assert read_parts(save(path, gen=one), ("gen",), ("dis",)) == {"gen": one}
    with pytest.raises(WeightsError, match="no weights 'gen' or 'audio2lip' in it; it holds dis, g_optim, args"):
        read_parts(save(path, dis=one), ("gen", "audio2lip"), ("dis",))


def test_other_parts_and_older_file_formats_are_read(tmp_path: Path) -> None:
    state = Audio2Lip().state_dict()
    path = tmp_path / "Audio2Lip.pt"
    content = {"audio2lip": state, "args": argparse.Namespace(x=1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    loaded = Audio2Lip()
    fit_state(loaded, read(path, "audio2lip"), str(path))
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(WeightsError, match="no weights 'gen' in it; it holds audio2lip, args"):
        read(path)


def test_biases_without_the_axes_of_length_one_fit(tmp_path: Path) -> None:
    model = EDTalk(SMALL)
    flat = {
        name: value.flatten() if name.endswith("activate.bias") else value for name, value in model.state_dict().items()
    }
    assert flat["dec.conv1.activate.bias"].ndim == 1
    loaded = EDTalk(SMALL)
    fit_state(loaded, flat, "file")
    assert same(model, loaded)


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    model = EDTalk(SMALL)
    state = model.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    wrong = {name: value + 1 for name, value in state.items() if not name.startswith("fc.0.")}
    wrong |= {"extra": torch.zeros(1), "direction_exp.weight": torch.zeros(10, 48)}
    with pytest.raises(WeightsError) as error:
        fit_state(model, wrong, "EDTalk.pt")
    for part in (
        "EDTalk.pt",
        "2 missing (fc.0.weight, fc.0.bias)",
        "1 unknown (extra)",
        "direction_exp.weight: 10x48, not 48x10",
    ):
        assert part in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "nothing was loaded"


def test_lia_gives_encoder_shared_layers_and_generator() -> None:
    lia, model = Lia(SMALL), EDTalk(SMALL)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    fit_state(model, lia_to_edtalk(lia.state_dict()), "vox.pt", NOT_IN_LIA)
    state, source = model.state_dict(), lia.state_dict()
    for name, value in state.items():
        if name.startswith(("lip_fc.", "pose_fc.", "exp_fc.", "direction_", "dec.fineadainresblock.")):
            assert torch.equal(value, fresh[name]), name
        elif name.startswith("fc."):
            assert torch.equal(value, source[f"enc.{name}"]), name
        else:
            assert torch.equal(value, source[name]), name


def test_the_key_map_drops_the_old_code_head_and_bank_only() -> None:
    state = Lia(SMALL).state_dict()
    converted = lia_to_edtalk(state)
    kept = {name for name in state if not name.startswith(("enc.fc.4.", "dec.direction."))}
    assert len(converted) == len(kept) == len(state) - 3
    assert {name.removeprefix("enc.") if name.startswith("enc.fc.") else name for name in kept} == set(converted)


def test_an_incomplete_lia_file_is_refused() -> None:
    state = {name: value for name, value in Lia(SMALL).state_dict().items() if name != "dec.conv1.conv.weight"}
    with pytest.raises(WeightsError, match=r"1 missing \(dec.conv1.conv.weight\)"):
        fit_state(EDTalk(SMALL), lia_to_edtalk(state), "vox.pt", NOT_IN_LIA)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("is_nested", [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, is_nested: bool) -> None:
    path, witness = tmp_path / "EDTalk.pt", tmp_path / "ran"
    bomb = Bomb(witness)
    torch.save({"gen": {}, "args": argparse.Namespace(x=bomb) if is_nested else bomb}, path)
    with pytest.raises(WeightsError, match="refused") as error:
        read(path)
    assert not witness.exists()
    assert str(path) in str(error.value)
    assert "weights_only" not in str(error.value), "no advice to load it all the same"
    # the file would have done it
    torch.load(path, weights_only=False)
    assert witness.exists()


def test_the_namespace_is_allowed_for_these_files_only(tmp_path: Path) -> None:
    path = save(tmp_path / "EDTalk.pt", gen={"a": torch.ones(1)})
    assert read(path)["a"].tolist() == [1]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "EDTalk.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"EDTalk\.pt"):
        read(path)


def test_truncated_archives_and_missing_files_are_too(tmp_path: Path) -> None:
    path = save(tmp_path / "EDTalk.pt", gen=EDTalk(SMALL).state_dict())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=r"EDTalk\.pt"):
        read(path)
    with pytest.raises(WeightsError, match="no such file"):
        read(tmp_path / "absent.pt")


def test_what_is_no_dict_of_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        read(tmp_path / "list.pt")
    torch.save({"gen": {"a": "text"}}, tmp_path / "text.pt")
    with pytest.raises(WeightsError, match="no weights 'gen'"):
        read(tmp_path / "text.pt")


# ---- codes


@pytest.mark.parametrize("shape", [(10,), (1, 10), (7, 10)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_codes_are_read_from_files(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "codes.npy", values)
    found = read_codes(tmp_path / "codes.npy", 10)
    assert found.dtype == torch.float32
    assert found.tolist() == values.reshape(-1, 10).tolist()


class CodeBomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "bomb.npy", np.array([CodeBomb(tmp_path / "ran")], object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"bomb\.npy: not a \.npy file of numbers"):
        read_codes(tmp_path / "bomb.npy", 10)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 9), np.float32), r"codes of shape \(3, 9\), expected \[n, 10\]"),
        (np.zeros((0, 10), np.float32), r"shape \(0, 10\)"),
        (np.zeros((1, 2, 10), np.float32), r"shape \(1, 2, 10\)"),
        (np.full((1, 10), np.nan, np.float32), "NaN or infinite"),
        (np.array(["a"] * 10), "not a .npy file of numbers"),
        (b"text", "not a .npy file of numbers"),
        (b"", "not a .npy file of numbers"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "codes.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ConfigError, match=message) as error:
        read_codes(path, 10)
    assert "\n" not in str(error.value)
    assert "codes.npy" in str(error.value)


def test_archives_and_missing_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "codes.npz", a=np.zeros(10))
    (tmp_path / "codes.npz").rename(tmp_path / "codes.npy")
    with pytest.raises(ConfigError, match=r"not a \.npy file of numbers"):
        read_codes(tmp_path / "codes.npy", 10)
    with pytest.raises(ConfigError, match="No such file"):
        read_codes(tmp_path / "absent.npy", 10)
