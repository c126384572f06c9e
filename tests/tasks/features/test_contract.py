"""What every extractor promises, checked on every one that is found: schema, missing frames, purity, light imports."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from storage.tables import Column, read_row, write_table
from storage.timelaw import axis_length
from tasks import features
from tasks.clip import Clip
from tests.conftest import REPOSITORY
from tests.fake_clips import fake_clip, talking_clip

NAMES = sorted(features.discover())
HEAVY = (
    "torch",
    "librosa",
    "scipy.signal",
    "mediapipe",
    "face_alignment",
    "matplotlib",
    "skimage",
    "prefect",
    "dask",
    "lmdb",
)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every extractor that can run on this machine."""
    weights_folder = REPOSITORY.parent / "shared" / "weights"
    if "TALKSET_WEIGHTS" not in os.environ and weights_folder.is_dir():
        monkeypatch.setenv("TALKSET_WEIGHTS", str(weights_folder))
    reason = features.missing(request.param, default_params(request.param))
    if reason is not None:
        pytest.skip(reason)
    return request.param


def default_params(name: str) -> BaseModel:
    return features.discover()[name].Params()


def extracted(name: str, clip: Clip) -> Mapping[str, Any]:
    """The columns of one clip, those of required extractors computed first; all that it sees is read-only."""
    extractor = features.discover()[name]
    needed: dict[str, Any] = {}
    for need in extractor.REQUIRES:
        needed |= extracted(need, clip)
    for array in needed.values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    clip = replace(clip, features=needed)
    params = default_params(name)
    return extractor.extract(clip, params, features.prepare(name, [clip], params))


def columns_of(name: str) -> Sequence[Column]:
    return features.discover()[name].COLUMNS


def check_schema(name: str, rows: Mapping[str, Any], num_frames: int) -> None:
    columns = columns_of(name)
    assert set(rows) == {column.name for column in columns}
    for column in columns:
        if column.dtype == "string":
            assert isinstance(rows[column.name], str), column.name
            continue
        value = np.asarray(rows[column.name])
        assert value.shape == tuple(axis_length(axis, num_frames) for axis in column.shape), column.name
        if column.shape or isinstance(rows[column.name], np.generic):
            assert value.dtype == np.dtype(column.dtype), column.name


def check_values(name: str, rows: Mapping[str, Any]) -> None:
    """No infinities; NaN only in columns whose documentation, or that of their mask, says when."""
    has_mask = any(column.name.endswith("_valid") and "NaN" in column.doc for column in columns_of(name))
    for column in columns_of(name):
        if not column.dtype.startswith("float"):
            continue
        value = np.asarray(rows[column.name])
        assert not np.isinf(value).any(), column.name
        is_explained = "NaN" in column.doc or (has_mask and column.shape[:1] == ("N",))
        assert is_explained or not np.isnan(value).any(), f"{column.name} holds NaN; say in its doc when"


@pytest.mark.parametrize("num_frames", [1, 2, 25, 124, 125])
def test_output_matches_the_schema(name: str, num_frames: int) -> None:
    rows = extracted(name, fake_clip(num_frames))
    check_schema(name, rows, num_frames)
    check_values(name, rows)


@pytest.mark.parametrize("missing", [[0], [0, 1, 2, 20, 39], range(40)], ids=["first", "some", "all"])
def test_missing_frames_keep_their_rows(name: str, missing: Sequence[int]) -> None:
    rows = extracted(name, fake_clip(40, missing=missing))
    check_schema(name, rows, 40)
    check_values(name, rows)


def test_masks_tell_where_rows_are_missing(name: str) -> None:
    masks = [column.name for column in columns_of(name) if column.dtype == "bool" and column.name.endswith("_valid")]
    if not masks:
        pytest.skip(f"{name} has no mask")
    rows = extracted(name, fake_clip(40, missing=[3, 4, 39]))
    is_valid = rows[masks[0]]
    for column in columns_of(name):
        if column.dtype.startswith("float") and column.shape[:1] == ("N",):
            finite = np.isfinite(rows[column.name]).reshape(40, -1)
            assert finite[is_valid].all(), column.name
            assert not finite[~is_valid].any(), column.name


def test_missing_audio_is_handled(name: str) -> None:
    rows = extracted(name, fake_clip(40, audio=np.zeros(640 * 40), has_audio=False))
    check_schema(name, rows, 40)
    check_values(name, rows)


@pytest.mark.parametrize("level", [1e-6, 1.0])
def test_extreme_audio_is_handled(name: str, level: float) -> None:
    square = level * np.sign(np.sin(np.arange(640 * 30) / 7))
    check_values(name, extracted(name, fake_clip(30, audio=square)))


def test_same_clip_gives_same_bytes(name: str) -> None:
    clip = talking_clip(40, 1, missing=[5])
    first, second = extracted(name, clip), extracted(name, clip)
    for column in columns_of(name):
        assert np.asarray(first[column.name]).tobytes() == np.asarray(second[column.name]).tobytes(), column.name


def test_clips_do_not_depend_on_each_other(name: str) -> None:
    clip = fake_clip(30, seed=1)
    alone = extracted(name, clip)
    extracted(name, fake_clip(50, seed=2))
    again = extracted(name, clip)
    for column in columns_of(name):
        np.testing.assert_array_equal(alone[column.name], again[column.name], err_msg=column.name)


def test_inputs_are_left_alone_and_outputs_are_own(name: str) -> None:
    clip = fake_clip(30)
    inputs = {field: getattr(clip, field) for field in ("audio", "landmarks", "num_faces", "is_corrupt")}
    before = {field: array.tobytes() for field, array in inputs.items()}
    rows = extracted(name, clip)
    for field, array in inputs.items():
        assert array.tobytes() == before[field], field
        for column, value in rows.items():
            assert not np.shares_memory(np.asarray(value), array), f"{column} is a view of clip.{field}"


def test_a_table_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    all_rows = [extracted(name, fake_clip(count, seed=count)) for count in (2, 30)]
    write_table(tmp_path / "t.parquet", all_rows, columns_of(name), {})
    for index, rows in enumerate(all_rows):
        stored = read_row(tmp_path / "t.parquet", index)
        for column in columns_of(name):
            np.testing.assert_array_equal(stored[column.name], rows[column.name], err_msg=column.name)


@pytest.mark.parametrize("each", NAMES)
def test_declarations(each: str) -> None:
    extractor = features.discover()[each]
    module = cast(ModuleType, extractor)
    assert extractor.VERSION >= 1
    assert module.__doc__
    assert module.extract.__doc__
    assert set(extractor.REQUIRES) <= set(NAMES) - {each}
    for column in extractor.COLUMNS:
        assert column.doc, f"{column.name} has no documentation"
        assert (column.rate_hz is not None) == column.is_ragged, (
            f"{column.name}: a time axis has a rate, and nothing else"
        )
        if column.name.endswith(("_px", "_hz", "_s", "_deg", "_frames", "_db")):
            assert column.unit, column.name
    for source in getattr(module, "CODE_FILES", ()):
        assert (REPOSITORY / "tasks" / source).exists(), source


@pytest.mark.parametrize("each", NAMES)
def test_parameters_are_frozen_and_strict(each: str) -> None:
    params = default_params(each)
    with pytest.raises(ValidationError):
        type(params).model_validate({"no_such_parameter": 1})
    assert params.model_config.get("frozen")
    json.dumps(params.model_dump())
    if params.model_dump():
        with pytest.raises(ValidationError):
            setattr(params, next(iter(params.model_dump())), 1)


@pytest.mark.parametrize("each", NAMES)
def test_libraries_are_distributions(each: str) -> None:
    for library in features.discover()[each].LIBRARIES:
        if library != "mediapipe":  # optional
            importlib.metadata.version(library)


def test_column_names_are_unique() -> None:
    owners: dict[str, str] = {}
    for each in NAMES:
        for column in columns_of(each):
            assert owners.setdefault(column.name, each) == each, f"{column.name} is in {owners[column.name]} and {each}"


def test_importing_extractors_is_light() -> None:
    script = f"""
import sys
from tasks import features
features.discover()
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
