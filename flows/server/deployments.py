"""Setup of a Prefect server: work pools, limits, the zombie automation, the deployments of prefect.yaml and of systems.

It can be repeated at any time; existing entries are brought up to date.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.server.prefect_server import CPU_POOL, GPU_LIMIT, GPU_POOL
from models.systems import systems
from storage.errors import PreflightError

DEPLOYMENTS_FILE = "prefect.yaml"

_ZOMBIES = "talkset: a run without a heartbeat has crashed"
# Flows send a heartbeat every 30 s (flows.server.prefect_server.ENVIRONMENT): three in a row must be missing.
_ZOMBIE_AFTER = timedelta(seconds=90)
_RUN = "prefect.flow-run"
# Events carry the name of the state; the last three are those of flows.refresh.
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Done", "Partial", "Unchanged")
_CRASH = ChangeFlowRunState(
    name="Crashed", state=StateType.CRASHED, message="no heartbeat: its process was killed", force=False
)


def bootstrap(num_cpu_runs: int, num_gpus: int, project: Path) -> None:
    """Makes pools, limits, automation and deployments on the server of PREFECT_API_URL.

    Args:
        num_cpu_runs: refreshes of different datasets that may run at once.
        num_gpus: trainings that may run at once.
        project: folder with prefect.yaml.

    Raises:
        PreflightError: prefect.yaml is missing, or its deployments could not be made.
    """
    with get_client(sync_client=True) as client:
        _ensure_pool(client, CPU_POOL, "Refreshes and maintenance", num_cpu_runs)
        _ensure_pool(client, GPU_POOL, "Trainings, one per GPU", num_gpus)
        try:
            client.read_global_concurrency_limit_by_name(GPU_LIMIT)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=num_gpus))
        _ensure_zombie_automation(client)
    deploy(project)


def _ensure_pool(client: SyncPrefectClient, name: str, what: str, limit: int) -> None:
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=what, concurrency_limit=limit))
    else:
        client.update_work_pool(name, WorkPoolUpdate(description=what, concurrency_limit=limit, is_paused=False))


def _ensure_zombie_automation(client: SyncPrefectClient) -> None:
    """A flow run that was killed outright would stay 'Running' for good and keep its slot."""
    ends = {f"{_RUN}.{state}" for state in _ENDS}
    automation = AutomationCore(
        name=_ZOMBIES,
        description="Marks flow runs as crashed whose process is gone, so that their slots are free again.",
        trigger=EventTrigger(
            after={f"{_RUN}.heartbeat"}, expect={f"{_RUN}.heartbeat", *ends},
            match={"prefect.resource.id": [f"{_RUN}.*"]},  # pyright: ignore[reportArgumentType]
            for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1, within=_ZOMBIE_AFTER,
        ),
        actions=[_CRASH],
    )  # fmt: skip
    found = client.read_automations_by_name(_ZOMBIES)
    if found:
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)


def with_trainings(content: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The content of a prefect.yaml with a deployment for each system that it has none for.

    Args:
        content: of the file; the new deployments are made like its `definitions.train`, none without that.
        names: of the systems.
    """
    template = content.get("definitions", {}).get("train")
    if template is None:
        return content
    have = {block["name"] for block in content["deployments"] if block.get("entrypoint") == template["entrypoint"]}
    added = [
        {
            "name": name, **template, "parameters": {"system": name}, "tags": ["talkset", "train", name],
            "description": f"Trains the stages of {name} on a published snapshot.",
        }
        for name in names
        if name not in have
    ]  # fmt: skip
    return {**content, "deployments": [*content["deployments"], *added]}


def deploy(project: Path) -> None:
    """Makes the deployments of the project's prefect.yaml, and one for each system that it has none for.

    Raises:
        PreflightError: the file is missing or no YAML, or the deployments could not be made.
    """
    try:
        content = yaml.safe_load((project / DEPLOYMENTS_FILE).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read as YAML ({error})"
        raise PreflightError(
            f"{project / DEPLOYMENTS_FILE} {reason}; run in the project's folder or pass --project"
        ) from None
    with TemporaryDirectory() as folder:
        file = Path(folder) / DEPLOYMENTS_FILE
        file.write_text(yaml.safe_dump(dict(with_trainings(content, systems())), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        ended = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise PreflightError(f"the deployments of {project} could not be made: {(ended.stderr or ended.stdout)[-800:]}")
