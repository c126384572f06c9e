"""Training: the stages of a system as a DAG of fit-or-skip steps on one published snapshot."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run

from flows.code_version import code_version
from flows.reporting.logs import run_logger
from flows.server.prefect_server import GPU_LIMIT
from flows.train_options import Device, TrainOptions
from storage.runs import RunRecord
from storage.store_layout import run_folder
from storage.stores import find_snapshot

if TYPE_CHECKING:
    from models.training.runs.job import FitRequest

Fit = Callable[["FitRequest"], RunRecord]


@dataclass(frozen=True, slots=True)
class TrainedStage:
    """The finished run of one stage.

    Attributes:
        stage, run: name of the stage and id of its run.
        state: of the run, 'done'.
        metrics: the last validation figures.
        model: path of the model file.
        sha256: of that file.
        step: optimiser steps done.
    """

    stage: str
    run: str
    state: str
    metrics: Mapping[str, float]
    model: str
    sha256: str
    step: int


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training.

    Attributes:
        system: that was trained.
        snapshot, dataset, number: id of the snapshot, its dataset and its number there.
        stages: in the order in which they were fitted.
    """

    system: str
    snapshot: str
    dataset: str
    number: int
    stages: tuple[TrainedStage, ...]


def _flow_run_name() -> str:
    given: dict[str, Any] = flow_run.parameters  # pyright: ignore[reportAttributeAccessIssue]
    return f"train-{given['system']}-{given['snapshot'][:12]}"


@flow(name="train", flow_run_name=_flow_run_name, persist_result=False, result_serializer="json")
def train(
    system: str, snapshot: str, preset: str = "paper", stages: list[str] | None = None, device: Device = "auto",
    is_quiet: bool = True, settings: dict[str, Any] | None = None, published: str | None = None,
    continue_from: str | None = None, allow_dataset_change: bool = False,
) -> TrainingResult:  # fmt: skip
    """Trains a system's stages on a published snapshot; stages already trained with identical inputs are skipped.

    Args:
        system: A folder of models/ that has stages, such as edtalk.
        snapshot: Id of a snapshot or its first digits, or DATASET or DATASET@NUMBER; see $TALKSET_STORES.
        preset: Settings of the stages, smoke or paper.
        stages: Only these, and those they start from; all by default.
        device: auto takes a GPU where there is one.
        is_quiet: No progress bars on the terminal.
        settings: Other values than the preset's, such as "finetune.subject": "M003" or "expression.train.max_steps": 9.
        published: Imported weights (LIA, EDTalk_lip_pose, EDTalk) in place of the stage they are of.
        continue_from: Id of a run of the one stage that is named; training begins with its newest state.
        allow_dataset_change: That run may have been trained on another snapshot.
    """
    options = TrainOptions(
        system, snapshot, preset, stages or (), device, is_quiet, settings or {}, published, continue_from,
        allow_dataset_change,
    )  # fmt: skip
    with _gpu_slot(device):
        result = train_stages(options, fit)
    create_markdown_artifact(
        _summary(result), key=f"training-{system}", description="Stages, figures and files of this training"
    )
    return result


@task(task_run_name="{request.system}-{request.stage}", cache_policy=NO_CACHE, persist_result=False,
      result_serializer="json")  # fmt: skip
def fit(request: "FitRequest") -> RunRecord:
    """Fits one stage, or returns its finished run. Called, not submitted: only the main thread receives signals."""
    from models.training.runs.fit import fit_stage

    record = fit_stage(request)
    run_logger().info("%s %s: run %s is %s, %s", request.system, request.stage, record.id, record.state, record.metrics)
    return record


def train_stages(options: TrainOptions, fit: Fit | None = None) -> TrainingResult:
    """Fits every stage after those it starts from, without Prefect.

    Args:
        options: what to train.
        fit: replaces models.training.runs.fit.fit_stage; the flow passes its task, so that stages are task runs.

    Raises:
        ConfigError: no such system, snapshot, stage, preset or setting, or the options are ambiguous.
        WeightsError: published weights are not imported.
    """
    from models.training.runs.fit import fit_stage
    from models.training.runs.job import FitRequest
    from models.training.runs.published import find_published
    from models.training.stage_selection import chosen_stages, presets_of, require_used
    from models.training.stages import discover

    system, data, found = options.system, find_snapshot(options.snapshot), discover(options.system)
    given = dict([find_published(system, found, options.published)] if options.published else [])
    chosen = chosen_stages(found, system, options.stages, given)
    require_used(found, system, chosen, given)
    options.validate(chosen)
    presets, done = presets_of(found, system, chosen, options.preset), dict[str, RunRecord]()
    for name in chosen:
        is_named = name in options.stages
        request = FitRequest(
            store=data.store,
            snapshot=data.id,
            system=system,
            stage=name,
            config=options.config(name, presets[name]),
            preset=options.preset,
            parents={parent: given.get(parent) or done[parent] for parent in found[name].PARENTS},
            code_version=code_version(),
            device=options.device,
            is_quiet=options.is_quiet,
            continue_from=options.continue_from if is_named else None,
            allow_dataset_change=options.allow_dataset_change and is_named,
        )
        done[name] = (fit or fit_stage)(request)
    trained = []
    for record in done.values():
        model = record.model()
        path = str(run_folder(data.store, record.id) / model.file)
        trained.append(
            TrainedStage(record.key.stage, record.id, record.state, record.metrics, path, model.sha256, model.step)
        )
    return TrainingResult(system, data.id, data.body.dataset, data.body.number, tuple(trained))


def _gpu_slot(device: Device) -> AbstractContextManager[Any]:
    """A slot of the server's limit for deployed runs that may use a GPU; the lock of the GPU itself still decides."""
    import torch

    if deployment.id is None or device == "cpu" or not torch.cuda.is_available():
        return nullcontext()
    from prefect.concurrency.sync import concurrency

    return concurrency(GPU_LIMIT, occupy=1, strict=True)


def _summary(result: TrainingResult) -> str:
    rows = [
        f"| {line.stage} | `{line.run}` | {line.state} | {line.step} | "
        + ", ".join(f"{name} {value:.4g}" for name, value in line.metrics.items())
        + f" | `{line.sha256[:12]}` |"
        for line in result.stages
    ]
    table = "\n".join(["| stage | run | state | steps | metrics | model |", "|---|---|---|---:|---|---|", *rows])
    title = f"# {result.system} on snapshot {result.number} of {result.dataset}"
    return f"{title}\n\nid `{result.snapshot}`\n\n{table}"
