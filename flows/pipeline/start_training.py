"""Hand-off: after a refresh the gate decides for each system that the dataset trains, and starts its training run."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flows.pipeline.gate import Decision, LastTraining, MachineResources, facts_of, should_train
from flows.refresh_options import RefreshOptions
from flows.reporting.logs import run_logger
from storage import weights
from storage.catalog import Dataset, TrainingRule
from storage.errors import ConfigError
from storage.runs import RunRecord, list_runs
from storage.snapshot import Snapshot
from storage.stores import STORES, is_known

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class TrainingStart:
    """Result of the hand-off for one system.

    Attributes:
        action: 'started' a flow run, 'trained' in this process, or 'not started'.
        reasons: of the gate.
        runs: ids of the runs of the stages, when it was trained.
        flow_run, name: id and name of the flow run, when one was started.
    """

    action: Literal["started", "trained", "not started"]
    reasons: tuple[str, ...]
    runs: tuple[str, ...] | None = None
    flow_run: str | None = None
    name: str | None = None


def hand_off(snapshot: Snapshot, dataset: Dataset, options: RefreshOptions) -> dict[str, TrainingStart]:
    """Decides for every system of `dataset.training`, and starts the trainings that pass the gate.

    With a server that has the deployments, training is a flow run of its own; otherwise it runs in this process.

    Returns:
        System -> its result.

    Raises:
        ConfigError: `dataset.training` names a system or stage that does not exist.
    """
    starts = dict[str, TrainingStart]()
    for system, decision in decide(snapshot, dataset.training).items():
        run_logger().info("training %s: %s (%s)", system, "go" if decision.is_go else "no", "; ".join(decision.reasons))
        start = TrainingStart("not started", decision.reasons)
        starts[system] = _start(start, system, snapshot, dataset.training, options) if decision.is_go else start
    return starts


def decide(snapshot: Snapshot, policy: TrainingRule) -> dict[str, Decision]:
    """The gate's decision for every system of the policy, from the contents of the store and this machine.

    Raises:
        ConfigError: the policy names a system that does not exist, or a preset that none of its stages has.
    """
    import torch

    now, runs, decisions = facts_of(snapshot), list_runs(snapshot.store), dict[str, Decision]()
    for system in policy.systems:
        machine = MachineResources(
            has_cuda=torch.cuda.is_available(),
            free_gib=shutil.disk_usage(snapshot.store).free / _GIB,
            missing=tuple(missing_needs(system, policy, now.features)),
        )
        decisions[system] = should_train(now, _last_training(snapshot, runs, system), policy, machine)
    return decisions


def _last_training(snapshot: Snapshot, runs: Sequence[RunRecord], system: str) -> LastTraining | None:
    own = [run for run in runs if run.key.system == system]
    if not own:
        return None
    newest = max(own, key=lambda run: (run.snapshot_number, run.sessions[-1].started_at if run.sessions else ""))
    # A run that was stopped or killed is resumed: it is no reason against training.
    if newest.key.snapshot == snapshot.id and newest.state in ("interrupted", "running"):
        return None
    try:
        facts = facts_of(Snapshot.open(snapshot.store, newest.key.snapshot))
    except ConfigError:
        facts = None
    return LastTraining(facts, newest.key.snapshot, newest.state == "failed")


def policy_stages(system: str, policy: TrainingRule) -> list[str]:
    """The stages that a policy names, as far as the system has them."""
    from models.training.stages import discover

    return [name for name in discover(system) if name in policy.stages]


def missing_needs(system: str, policy: TrainingRule, features: frozenset[str]) -> list[str]:
    """One line for each feature and weight file that the system's stages need and that is not available."""
    from models.training.stage_selection import chosen_stages, presets_of
    from models.training.stages import discover

    found, lines = discover(system), dict[str, None]()
    chosen = chosen_stages(found, system, policy_stages(system, policy))
    for name, preset in presets_of(found, system, chosen, policy.preset).items():
        absent = [feature for feature in found[name].FEATURES if feature not in features]
        lines |= {f"{name}: the snapshot has no {feature}": None for feature in absent}
        for weight in preset.weights():
            why = weights.missing(weight)
            if why:
                lines[f"{name}: {why}"] = None
    return list(lines)


def _start(
    start: TrainingStart, system: str, snapshot: Snapshot, policy: TrainingRule, options: RefreshOptions
) -> TrainingStart:
    """Starts a training; `start` with the action and its results filled in."""
    parameters: dict[str, Any] = {
        "system": system, "snapshot": snapshot.id, "preset": policy.preset, "stages": policy_stages(system, policy),
    }  # fmt: skip
    # The id determines the data; the environment says where they lie, if the default search would not find them.
    stores = os.pathsep.join(filter(None, (str(snapshot.store.absolute()), os.environ.get(STORES, ""))))
    environment = {} if is_known(snapshot) else {STORES: stores}
    if options.has_server and _has_deployment(system):
        flow_run = _start_deployment(snapshot, {**parameters, "stages": parameters["stages"] or None}, environment)
        return replace(start, action="started", flow_run=str(flow_run.id), name=flow_run.name)
    from flows.train import train, train_stages
    from flows.train_options import TrainOptions

    os.environ |= environment
    parameters["is_quiet"] = options.is_quiet
    result: Any = train(**parameters) if options.has_server else train_stages(TrainOptions(**parameters))
    return replace(start, action="trained", runs=tuple(stage.run for stage in result.stages))


def _has_deployment(system: str) -> bool:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(f"train/{system}")
        except ObjectNotFound:
            return False
    return True


def _start_deployment(snapshot: Snapshot, parameters: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """Starts a flow run of the system's deployment, and cancels those for older snapshots that still wait.

    By its idempotency key a hand-off that is repeated finds the flow run that is there instead of adding a second one.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.deployments import run_deployment
    from prefect.states import Cancelled

    from flows.code_version import code_version

    system = parameters["system"]
    newest: Any = run_deployment(
        f"train/{system}", parameters=dict(parameters), timeout=0, as_subflow=False,
        flow_run_name=f"train-{system}-{snapshot.body.dataset}-{snapshot.body.number}",
        idempotency_key=f"train:{system}:{snapshot.id}:{parameters['preset']}:{parameters['stages']}:{code_version()}",
        job_variables={"env": dict(environment)} if environment else None,
    )  # fmt: skip
    waiting = filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=waiting)),
            deployment_filter=filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[newest.deployment_id])),
        )
        for run in found:
            if run.created < newest.created:
                client.set_flow_run_state(run.id, Cancelled(message=f"a newer snapshot is trained by {newest.name}"))
    return newest
