"""Training: the stages of a system as a DAG of fit-or-skip steps on one published snapshot."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run

from flows.code_version import code_version
from flows.reporting.logs import run_logger
from flows.server.pools import GPU_LIMIT
from flows.train_options import Wishes
from storage.errors import ConfigError
from storage.runs import RunRecord
from storage.snapshot import Snapshot
from storage.store_layout import run_folder
from storage.stores import find_snapshot

Device = Literal["auto", "cpu", "cuda"]
Fit = Callable[..., RunRecord]


def _flow_run_name() -> str:
    given: dict[str, Any] = flow_run.parameters  # pyright: ignore[reportAttributeAccessIssue]
    return f"train-{given['system']}-{given['snapshot'][:12]}"


@flow(name="train", flow_run_name=_flow_run_name, persist_result=False, result_serializer="json")
def train(
    system: Literal["edtalk", "emogene", "realtalk"], snapshot: str, preset: str = "paper",
    stages: list[str] | None = None, device: Device = "auto", is_quiet: bool = True,
    settings: dict[str, Any] | None = None, published: str | None = None, continue_from: str | None = None,
    allow_dataset_change: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Trains a system's stages on a published snapshot; what was trained before on equal terms is skipped.

    Args:
        system: What to train.
        snapshot: Id of a snapshot or its first digits, or DATASET or DATASET@NUMBER; see $TALKSET_STORES.
        preset: Settings of the stages, smoke or paper.
        stages: Only these, and those they start from; all by default.
        device: auto takes a GPU where there is one.
        is_quiet: No progress bars on the terminal.
        settings: Other values than the preset's, such as "finetune.subject": "M003" or "expression.train.max_steps": 9.
        published: Imported weights (LIA, EDTalk_lip_pose, EDTalk) in place of the stage they are of.
        continue_from: Id of a run of the one stage that is named; its newest state is begun with.
        allow_dataset_change: That run may have been trained on another snapshot.

    Returns:
        snapshot id, and per stage the id of its run, its state, metrics and model file.
    """
    wishes = Wishes(settings or {}, published, continue_from, allow_dataset_change)
    with _gpu_slot(device):
        answer = train_stages(system, snapshot, preset, stages, device, is_quiet, wishes, fit)
    create_markdown_artifact(
        _summary(answer), key=f"training-{system}", description="Stages, figures and files of this training"
    )
    return answer


def train_stages(
    system: str, snapshot: str, preset: str = "paper", stages: Sequence[str] | None = None, device: Device = "auto",
    is_quiet: bool = True, wishes: Wishes | None = None, fit: Fit | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The same without Prefect: every stage after those it starts from.

    Args:
        wishes: see Wishes.
        fit: stands in for fit.fit_stage; the flow gives its task, so that stages are seen as task runs.

    Raises:
        ConfigError: no such system, snapshot, stage, preset or setting, or it is not clear which stage is meant.
        WeightsError: published weights are not imported.
    """
    from models.training.runs.fit import fit_stage
    from models.training.runs.published import find_published
    from models.training.stages import discover

    wishes = wishes or Wishes()
    data, found, done = find_snapshot(snapshot), discover(system), dict[str, RunRecord]()
    given = dict([find_published(system, found, wishes.published)] if wishes.published else [])
    chosen = chosen_stages(found, system, stages, given)
    require_used(found, system, chosen, given)
    wishes.require_clear(stages or (), chosen)
    presets = presets_of(system, chosen, preset)
    for name in chosen:
        own = wishes if name in (stages or ()) else Wishes()
        done[name] = (fit or fit_stage)(
            data.store, data.id, system, name, wishes.config(name, presets[name]), preset,
            {parent: given.get(parent) or done[parent] for parent in found[name].PARENTS}, code_version(), device,
            is_quiet, own.allow_dataset_change, own.continue_from,
        )  # fmt: skip
    return {"system": system, "snapshot": data.id, "dataset": data.body.dataset, "number": data.body.number,
            "stages": [_line(data, record) for record in done.values()]}  # fmt: skip


@task(task_run_name="{system}-{stage}", cache_policy=NO_CACHE, persist_result=False, result_serializer="json")
def fit(
    store: Path, snapshot_id: str, system: str, stage: str, config: Any, preset: str,
    parents: Mapping[str, Any], code_version: str, device: Device, is_quiet: bool, allow_dataset_change: bool,
    continue_from: str | None,
) -> RunRecord:  # fmt: skip
    """Fit one stage, or find that it is fitted. Called, not submitted: it must hear signals in the main thread."""
    from models.training.runs.fit import fit_stage

    record = fit_stage(
        store, snapshot_id, system, stage, config, preset, parents, code_version, device, is_quiet,
        allow_dataset_change, continue_from,
    )  # fmt: skip
    run_logger().info("%s %s: run %s is %s, %s", system, stage, record.id, record.state, record.metrics)
    return record


def chosen_stages(
    found: Mapping[str, Any], system: str, stages: Sequence[str] | None, given: Collection[str] = ()
) -> list[str]:
    """The stages asked for and all they start from, in the order of the DAG; all when none is asked for.

    Args:
        found: the system's stages.
        system: its name.
        stages: asked for.
        given: stages that something stands in for; neither they nor what only they start from are trained.

    Raises:
        ConfigError: no such stage, or one of `given` is asked for.
    """
    unknown = sorted(set(stages or ()) - set(found))
    if unknown:
        raise ConfigError(f"{system} has no stage {unknown[0]!r}; there are {', '.join(found)}")
    if twice := sorted(set(stages or ()) & set(given)):
        raise ConfigError(f"{system} {twice[0]}: published weights stand in for it, so it is not trained")
    wanted = set(stages or _behind(found, given))
    for name in reversed(list(found)):
        if name in wanted:
            wanted |= set(found[name].PARENTS) - set(given)
    return [name for name in found if name in wanted]


def require_used(found: Mapping[str, Any], system: str, chosen: Sequence[str], given: Collection[str]) -> None:
    """Checks that a stage that is going to be trained starts from what was given.

    Raises:
        ConfigError: none does: all would be trained from nothing.
    """
    for name in given:
        users = [stage for stage in found if name in found[stage].PARENTS]
        if not set(users) & set(chosen):
            raise ConfigError(
                f"{system}: published weights stand in for {name}, from which {', '.join(users)} start, but none of "
                f"these is trained; name one of them with --stage, or weights of another stage"
            )


def presets_of(system: str, chosen: Sequence[str], name: str) -> dict[str, Any]:
    """The preset of each stage; one that only some stages have is joined by 'paper' of the others.

    Raises:
        ConfigError: no stage has it.
    """
    from models.training.stages import find, preset

    own = [stage for stage in chosen if name in find(system, stage).PRESETS]
    if not own:
        have = sorted({other for stage in chosen for other in find(system, stage).PRESETS})
        raise ConfigError(f"{system}: no stage of this training has a preset {name!r}; there are {', '.join(have)}")
    return {stage: preset(system, stage, name if stage in own else "paper") for stage in chosen}


def _behind(found: Mapping[str, Any], given: Collection[str]) -> set[str]:
    """All stages, or all that start from one of the given ones, directly or not."""
    if not given:
        return set(found)
    reached = set(given)
    for name, stage in found.items():
        if reached & set(stage.PARENTS):
            reached.add(name)
    return reached - set(given)


def _gpu_slot(device: Device) -> AbstractContextManager[Any]:
    """A slot of the server's limit for deployed runs that may use a GPU; runs.gpu_lock has the last word."""
    import torch

    if deployment.id is None or device == "cpu" or not torch.cuda.is_available():
        return nullcontext()
    from prefect.concurrency.sync import concurrency

    return concurrency(GPU_LIMIT, occupy=1, strict=True)


def _line(data: Snapshot, record: RunRecord) -> dict[str, Any]:
    model = record.model()
    return {
        "stage": record.key.stage, "run": record.id, "state": record.state, "metrics": record.metrics,
        "model": str(run_folder(data.store, record.id) / model.file), "sha256": model.sha256, "step": model.step,
    }  # fmt: skip


def _summary(answer: Mapping[str, Any]) -> str:
    title = f"# {answer['system']} on snapshot {answer['number']} of {answer['dataset']}"
    rows = [
        f"| {line['stage']} | `{line['run']}` | {line['state']} | {line['step']} | "
        + ", ".join(f"{name} {value:.4g}" for name, value in line["metrics"].items())
        + f" | `{line['sha256'][:12]}` |"
        for line in answer["stages"]
    ]
    table = "\n".join(["| stage | run | state | steps | metrics | model |", "|---|---|---|---:|---|---|", *rows])
    return f"{title}\n\nid `{answer['snapshot']}`\n\n{table}"
