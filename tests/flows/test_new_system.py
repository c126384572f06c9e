"""A system that is added as a folder is found: by the check of a dataset's policy, the gate, the command and deployments."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import models
from flows.cli.main import app
from flows.pipeline.preflight import preflight
from flows.pipeline.start_training import decide
from flows.server.deployments import with_trainings
from models.systems import systems
from storage.catalog import Dataset, TrainingRule
from storage.errors import ConfigError
from storage.runs import list_runs
from storage.snapshot import Snapshot
from storage.stores import STORES
from tests.conftest import REPOSITORY
from tests.models import toy
from tests.synthetic_store import build_store

POLICY = TrainingRule(systems=["toy"], preset="smoke", stages=["gan"], device="any", min_free_gib=0.1)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.setenv(STORES, str(tmp_path))
    return build_store(tmp_path / "synthetic", clips_per_subject=6, num_frames=(6, 7, 8))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a system 'toy'."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, toy.SYSTEMS])


def dataset(snapshot: Snapshot, root: Path) -> Dataset:
    return Dataset.model_validate(
        {**snapshot.body.config, "name": snapshot.body.dataset, "root": root, "training": POLICY}
    )


@pytest.mark.usefixtures("added")
def test_a_policy_may_name_it_and_the_gate_decides_about_it(snapshot: Snapshot, tmp_path: Path) -> None:
    preflight(dataset(snapshot, tmp_path), snapshot.store)
    assert decide(snapshot, POLICY)["toy"].is_go
    lacking = POLICY.model_copy(update={"min_clips": 1000})
    assert decide(snapshot, lacking)["toy"].reasons == ("18 clips, 1000 are needed",)


def test_without_it_both_say_which_systems_there_are(snapshot: Snapshot, tmp_path: Path) -> None:
    words = r"no system 'toy'; there are .*edtalk"
    with pytest.raises(ConfigError, match=rf"{snapshot.body.dataset}\.training\.systems: {words}"):
        preflight(dataset(snapshot, tmp_path), snapshot.store)
    with pytest.raises(ConfigError, match=words):
        decide(snapshot, POLICY)


@pytest.mark.usefixtures("added")
def test_the_command_lists_it_and_trains_it(snapshot: Snapshot) -> None:
    runner = CliRunner()
    assert "toy" in runner.invoke(app, ["train", "--help"]).output.partition("Systems:")[2]
    command = ["train", "toy", snapshot.id, "--preset", "smoke", "--stage", "gan", "--device", "cpu", "--json"]
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    (run,) = list_runs(snapshot.store)
    assert (run.key.system, run.key.stage, run.state) == ("toy", "gan", "done")


@pytest.mark.usefixtures("added")
def test_the_server_deploys_it_like_the_others() -> None:
    content = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    before, after = content["deployments"], with_trainings(content, systems())["deployments"]
    assert after[: len(before)] == before
    (block,) = (block for block in after[len(before) :] if block["name"] == "toy")
    like = next(block for block in before if block["name"] == "emogene")
    assert block == {**like, **{name: block[name] for name in ("name", "description", "tags", "parameters")}}
    assert block["parameters"] == {"system": "toy"}


def test_a_file_without_a_definition_of_trainings_stays_as_it_is() -> None:
    content = {"deployments": [{"name": "demo", "entrypoint": "flows.refresh.refresh"}]}
    assert with_trainings(content, ["edtalk"]) == content
