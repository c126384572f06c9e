"""Checkpoints on disk: whole or absent, verified when read, never a pickle."""

import json
import logging
import os
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.training.runs.checkpoint import (
    Identity,
    face_crop_of,
    is_intact,
    list_checkpoints,
    load_state,
    load_tensors,
    prune,
    read_metadata,
    save_checkpoint,
    sweep,
)
from storage.catalog import CropRule, FaceCrop, FaceRule
from storage.errors import ConfigError, OutOfSpace, StoreCorrupt, WeightsError
from storage.keys import sha256_file
from storage.runs import Checkpoint

WHO = Identity(run="toy-gan-1", snapshot="a" * 64, config_sha256="c" * 64, code_version="1")


def save(run: Path, step: int, kind: Any = "state", value: float = 0.0, size: int = 3) -> Checkpoint:
    return save_checkpoint(run, kind, step, WHO, {"w": torch.full((size,), step + value)}, {"step": step})


@contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_tensors_and_numbers_come_back_exactly(tmp_path: Path) -> None:
    tied, wide = nn.Linear(3, 3), torch.arange(12.0).reshape(3, 4)
    tensors = {
        "a/tied": tied.weight, "b/tied": tied.weight, "turned": wide.T, "row": wide[1], "scalar": torch.tensor(7),
        "half": torch.tensor([1.5, -2], dtype=torch.bfloat16), "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 4), "double": torch.tensor([0.1], dtype=torch.float64),
    }  # fmt: skip
    plain = {"step": 7, "third": 1 / 3, "list": [1, 2.5, None], "nested": {"0": {"x": True}}}
    entry = save_checkpoint(tmp_path, "state", 7, WHO, tensors, plain)
    found = load_state(tmp_path)
    assert found is not None
    sidecar, stored = found
    assert (sidecar.plain, sidecar.identity, sidecar.step) == (plain, WHO, 7)
    assert stored.keys() == tensors.keys()
    for name, value in tensors.items():
        assert stored[name].dtype == value.dtype
        assert torch.equal(stored[name], value), name
    path = tmp_path / entry.file
    assert (entry.sha256, entry.num_bytes) == sha256_file(path)
    assert path.stat().st_size < 1500  # of the row only the row, not all that its storage holds


def test_equal_contents_have_equal_bytes_and_name_their_run(tmp_path: Path) -> None:
    first, second = (save(tmp_path / name, 1, "model") for name in ("a", "b"))
    assert first == second
    assert (tmp_path / "a" / first.file).read_bytes() == (tmp_path / "b" / second.file).read_bytes()
    head = (tmp_path / "a" / first.file).read_bytes()[8:300]
    assert b"toy-gan-1" in head
    assert first.file == "checkpoints/model-00000001.safetensors"


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def damage_sidecar(path: Path) -> None:
    damage_cut(path.with_suffix(".json"))


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, Path.unlink, damage_sidecar])
def test_a_damaged_state_is_passed_over_and_the_log_says_so(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    damage(tmp_path / "checkpoints/state-00000003.safetensors")
    with caplog.at_level(logging.WARNING):
        found = load_state(tmp_path)
    assert found is not None
    assert (found[0].step, found[1]["w"].tolist()) == (2, [2.0] * 3)
    assert "state-00000003" in caplog.text
    assert "before it" in caplog.text or "passed over" in caplog.text
    damage_flip(tmp_path / "checkpoints/state-00000001.safetensors")
    damage_flip(tmp_path / "checkpoints/state-00000002.safetensors")
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "nowhere") is None


class Malice:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_under_the_name_of_a_checkpoint_is_not_run(tmp_path: Path, writer: Any) -> None:
    """S-01: even with a sidecar that vouches for it."""
    save(tmp_path, 1)
    entry = save(tmp_path, 2)
    mark, path = tmp_path / "mark", tmp_path / entry.file
    writer({"w": Malice(mark)}, path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["sha256"], sidecar["num_bytes"] = sha256_file(path)
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    with pytest.raises(StoreCorrupt, match="not a readable checkpoint"):
        load_tensors(tmp_path, list_checkpoints(tmp_path)[-1])
    found = load_state(tmp_path)
    assert found is not None
    assert found[0].step == 1
    assert not mark.exists()


def test_full_disk_leaves_the_earlier_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    with small_disk(50_000), pytest.raises(OutOfSpace, match=r"state-00000002.*no space left"):
        save(tmp_path, 2, size=100_000)
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_a_disk_that_is_full_at_the_last_moment_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    before = set((tmp_path / "checkpoints").iterdir())

    def refuse(path: Path) -> None:
        raise OutOfSpace(f"{path}: no space left")

    monkeypatch.setattr("storage.files.fsync_file", refuse)
    with pytest.raises(OutOfSpace):
        save(tmp_path, 2)
    assert set((tmp_path / "checkpoints").iterdir()) == before


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 5, value=0.25)
    assert [entry.step for entry in list_checkpoints(tmp_path)] == [5]
    found = load_state(tmp_path)
    assert found is not None
    assert found[1]["w"][0] == 5.25


def test_only_the_newest_are_kept_of_each_kind(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9):
        save(tmp_path, step)
        save(tmp_path, step, "model")
    save(tmp_path, 1, "failed-state")
    prune(tmp_path, 2)
    kept = [(entry.step, entry.kind) for entry in list_checkpoints(tmp_path)]
    assert kept == [(9, "model"), (9, "state"), (10, "model"), (10, "state")]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2 * 5
    assert (tmp_path / "checkpoints/failed-state-00000001.safetensors").exists()


def test_what_a_kill_left_behind_is_swept(tmp_path: Path) -> None:
    save(tmp_path, 1)
    whole = set((tmp_path / "checkpoints").iterdir())
    half = tmp_path / "checkpoints/.state-00000002.safetensors.123-abcd.unfinished"
    shutil.copy(tmp_path / "checkpoints/state-00000001.safetensors", half)
    shutil.copy(half, tmp_path / "checkpoints/state-00000002.safetensors")
    assert load_state(tmp_path)[0].step == 1  # type: ignore[index]
    sweep(tmp_path)
    assert set((tmp_path / "checkpoints").iterdir()) == whole
    sweep(tmp_path / "nowhere")


def test_model_files_carry_the_crop_of_their_training_data(tmp_path: Path) -> None:
    own = FaceCrop(crop=CropRule(margin=0.2), face=FaceRule(backend="mediapipe"))
    who = WHO.model_copy(update={"face_crop": own})
    new, state = (tmp_path / save_checkpoint(tmp_path, kind, 1, who, {}).file for kind in ("model", "state"))
    old = tmp_path / save_checkpoint(tmp_path, "model", 2, WHO, {}).file
    assert face_crop_of(new) == own
    assert read_metadata(state).keys() == read_metadata(old).keys() == {"run", "snapshot", "step"}
    assert face_crop_of(old) == FaceCrop(), "as published, where the file is older"
    found = load_state(tmp_path)
    assert found is not None
    assert found[0].identity == who
    save_file({}, new, {"talkset": '{"crop": {"margin": 0.2, "shape": "round"}}'})
    with pytest.raises(WeightsError, match="its crop rule is not known here"):
        face_crop_of(new)


def test_intact_means_the_same_bytes(tmp_path: Path) -> None:
    entry = save(tmp_path, 1)
    assert is_intact(tmp_path, entry)
    damage_flip(tmp_path / entry.file)
    assert not is_intact(tmp_path, entry)
    (tmp_path / entry.file).unlink()
    assert not is_intact(tmp_path, entry)


@pytest.mark.parametrize("field", ["run", "snapshot", "config_sha256", "parents"])
def test_a_state_of_another_training_is_refused(field: str) -> None:
    other = WHO.model_copy(update={field: {"gan": "d"} if field == "parents" else "b" * 64})
    with pytest.raises(ConfigError, match=field):
        WHO.require_same(other)
    WHO.require_same(WHO.model_copy(update={"code_version": "2"}))
