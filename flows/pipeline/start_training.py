"""Hand-off: after a refresh each system that the dataset trains gets its decision, and on 'go' its training run."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from flows.pipeline.gate import Decision, Last, Means, facts_of, should_train
from flows.refresh_options import RefreshOptions
from flows.reporting.logs import run_logger
from storage import weights
from storage.catalog import Dataset, TrainingRule
from storage.errors import ConfigError
from storage.runs import RunRecord, list_runs
from storage.snapshot import Snapshot
from storage.stores import STORES, is_known

_GIB = 1 << 30


def hand_off(snapshot: Snapshot, dataset: Dataset, options: RefreshOptions) -> dict[str, Any]:
    """Decides for every system of `dataset.training`, and starts what may start.

    With a server that has the deployments, training is a flow run of its own; otherwise it runs here and now.

    Returns:
        System -> action ('started', 'trained' or 'not started'), reasons, and what was started.
    """
    decisions = decide(snapshot, dataset.training)
    answers = {}
    for system, decision in decisions.items():
        run_logger().info("training %s: %s (%s)", system, "go" if decision.is_go else "no", "; ".join(decision.reasons))
        started = _start(system, snapshot, dataset.training, options) if decision.is_go else {"action": "not started"}
        answers[system] = {**started, "reasons": list(decision.reasons)}
    return answers


def decide(snapshot: Snapshot, policy: TrainingRule) -> dict[str, Decision]:
    """The gate's decision for every system of the policy, from what the store and this machine hold."""
    now, runs = facts_of(snapshot), list_runs(snapshot.store)
    return {
        system: should_train(now, _last(snapshot, runs, system), policy, _means(snapshot, now.features, system, policy))
        for system in policy.systems
    }


def _last(snapshot: Snapshot, runs: list[RunRecord], system: str) -> Last | None:
    own = [run for run in runs if run.key.system == system]
    if not own:
        return None
    newest = max(own, key=lambda run: (run.snapshot_number, run.sessions[-1].started_at if run.sessions else ""))
    try:
        facts = facts_of(Snapshot.open(snapshot.store, newest.key.snapshot))
    except ConfigError:
        facts = None
    # One that was stopped or killed is taken up again where it was, so that it is no reason against.
    if newest.key.snapshot == snapshot.id and newest.state in ("interrupted", "running"):
        return None
    return Last(facts, newest.key.snapshot, newest.state == "failed")


def _means(snapshot: Snapshot, features: frozenset[str], system: str, policy: TrainingRule) -> Means:
    import torch

    return Means(
        has_cuda=torch.cuda.is_available(),
        free_gib=shutil.disk_usage(snapshot.store).free / _GIB,
        missing=tuple(_missing(features, system, policy)),
    )


def _stages(system: str, policy: TrainingRule) -> list[str]:
    """Those of the policy that the system has."""
    from models.training.stages import discover

    return [name for name in discover(system) if name in policy.stages]


def _missing(have: frozenset[str], system: str, policy: TrainingRule) -> list[str]:
    """What the system's stages need and is not there, one line each."""
    from flows.train import chosen_stages, presets_of
    from models.training import stages

    lines: dict[str, None] = {}
    found = stages.discover(system)
    chosen = chosen_stages(found, system, _stages(system, policy))
    for name, preset in presets_of(system, chosen, policy.preset).items():
        features = found[name].FEATURES
        lines |= {f"{name}: the snapshot has no {feature}": None for feature in features if feature not in have}
        for weight in preset.weights():
            why = weights.missing(weight)
            if why:
                lines[f"{name}: {why}"] = None
    return list(lines)


def _start(system: str, snapshot: Snapshot, policy: TrainingRule, options: RefreshOptions) -> Mapping[str, Any]:
    parameters = {
        "system": system, "snapshot": snapshot.id, "preset": policy.preset, "stages": _stages(system, policy) or None,
    }  # fmt: skip
    # The id says which data; where they lie is told by the environment, and only where the default would not find it.
    environment = {} if is_known(snapshot) else {STORES: _with_store(snapshot)}
    if options.has_server and _has_deployment(system):
        return _start_deployment(system, snapshot, parameters, environment)
    from flows.train import train, train_stages

    os.environ |= environment
    run: Any = train if options.has_server else train_stages
    answer = run(**parameters, is_quiet=options.is_quiet)
    return {"action": "trained", "runs": [stage["run"] for stage in answer["stages"]]}


def _with_store(snapshot: Snapshot) -> str:
    return os.pathsep.join(filter(None, (str(snapshot.store.absolute()), os.environ.get(STORES, ""))))


def _has_deployment(system: str) -> bool:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(f"train/{system}")
        except ObjectNotFound:
            return False
    return True


def _start_deployment(
    system: str, snapshot: Snapshot, parameters: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """A flow run of its own. The key makes a replayed hand-off find the run that is there instead of a second one."""
    from prefect.deployments import run_deployment

    from flows.code_version import code_version

    flow_run: Any = run_deployment(
        f"train/{system}", parameters=dict(parameters), timeout=0, as_subflow=False,
        flow_run_name=f"train-{system}-{snapshot.body.dataset}-{snapshot.body.number}",
        idempotency_key=f"train:{system}:{snapshot.id}:{parameters['preset']}:{parameters['stages']}:{code_version()}",
        job_variables={"env": dict(environment)} if environment else None,
    )  # fmt: skip
    _cancel_older(flow_run)
    return {"action": "started", "flow_run": str(flow_run.id), "name": flow_run.name}


def _cancel_older(newest: Any) -> None:
    """The latest snapshot wins: runs of the same deployment that still wait for their turn are given up."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled

    waiting = filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=waiting)),
            deployment_filter=filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[newest.deployment_id])),
        )
        for run in found:
            if run.created < newest.created:
                client.set_flow_run_state(run.id, Cancelled(message=f"a newer snapshot is trained by {newest.name}"))
