"""The toy system of tests/models/systems put in the place where stages are looked for, and short ways to fit it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
from models.training import stages
from models.training.runs.checkpoint import load_state, load_tensors
from models.training.runs.fit import fit_stage
from models.training.runs.job import FitRequest
from models.training.runs.metrics_log import read_metrics
from storage.runs import RunRecord
from storage.store_layout import run_folder

SYSTEMS = str(Path(__file__).with_name("systems"))
CODE = "0.0.0+toy"


def install() -> None:
    """From now on there is a system 'toy'."""
    if SYSTEMS not in models.__path__:
        models.__path__.append(SYSTEMS)


def toy_config(stage: str = "gan", train: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    """The smoke preset with other values."""
    smoke = stages.preset("toy", stage, "smoke")
    return smoke.model_copy(update={"train": smoke.train.model_copy(update=dict(train or {})), **changes})


def fit_toy(
    store: Path, stage: str = "gan", train: Mapping[str, Any] | None = None, snapshot: str = "latest",
    parents: Mapping[str, RunRecord] | None = None, options: Mapping[str, Any] | None = None, **changes: Any,
) -> RunRecord:  # fmt: skip
    """fit_stage on the CPU, without a bar."""
    config = toy_config(stage, train, **changes)
    request = FitRequest(store, snapshot, "toy", stage, config, "smoke", parents or {}, CODE, "cpu", is_quiet=True)
    return fit_stage(replace(request, **(options or {})))


def ending(store: Path, run: str) -> dict[str, Any]:
    """Everything that must not depend on interruptions: last state, model's hash, logged figures."""
    folder = run_folder(store, run)
    found = load_state(folder)
    assert found is not None
    sidecar, tensors = found
    lines = [{name: value for name, value in line.items() if name != "time"} for line in read_metrics(folder)]
    model = [entry.sha256 for entry in _checkpoints(store, run) if entry.kind == "model"][-1]
    return {"step": sidecar.step, "plain": sidecar.plain, "tensors": tensors, "lines": lines, "model": model}


def model_tensors(store: Path, record: RunRecord) -> dict[str, Any]:
    return load_tensors(run_folder(store, record.id), record.model())


def assert_same_ending(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Bit for bit."""
    import torch

    assert ours["tensors"].keys() == theirs["tensors"].keys()
    for name, value in ours["tensors"].items():
        assert value.dtype == theirs["tensors"][name].dtype
        assert torch.equal(value, theirs["tensors"][name]), name
    for name in ("step", "plain", "lines", "model"):
        assert ours[name] == theirs[name], name


def _checkpoints(store: Path, run: str) -> Any:
    from models.training.runs.checkpoint import list_checkpoints

    return list_checkpoints(run_folder(store, run))
