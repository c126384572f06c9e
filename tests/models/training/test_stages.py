"""Stages are files that are found; their order is that of the DAG."""

from pathlib import Path

import pytest

import models
from models.systems import systems
from models.training import stages
from models.training.engine.config import StageConfig, TrainConfig
from storage.errors import ConfigError

STAGE = "VERSION = 1\nPARENTS = {parents}\nFEATURES = ()\nPRESETS = {{}}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose systems are found beside the real ones."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    return tmp_path


def add_system(place: Path, name: str, **parents: tuple[str, ...]) -> None:
    """A system with one file per stage."""
    folder = place / name / "stages"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    for stage, own in parents.items():
        (folder / f"{stage}.py").write_text(STAGE.format(parents=repr(own)))


def test_a_file_is_a_stage_and_comes_after_its_parents(place: Path) -> None:
    add_system(place, "chain", a=("z",), z=(), m=("a", "b"), b=())
    (place / "helper").mkdir()
    (place / "helper" / "__init__.py").touch()
    assert "chain" in systems()
    assert "helper" not in systems()
    found = stages.discover("chain")
    assert list(found) == ["b", "z", "a", "m"]
    assert found["m"].PARENTS == ("a", "b")
    assert stages.find("chain", "z") is found["z"]


def test_what_does_not_exist_is_named_with_what_does(place: Path) -> None:
    add_system(place, "single", only=())
    with pytest.raises(ConfigError, match=r"no system 'edtakl'; there are .*single"):
        stages.discover("edtakl")
    with pytest.raises(ConfigError, match="single has no stage 'other'; there are only"):
        stages.find("single", "other")
    with pytest.raises(ConfigError, match="single only has no preset 'smoke'"):
        stages.preset("single", "only", "smoke")


def test_parents_that_are_no_dag_are_refused(place: Path) -> None:
    add_system(place, "circle", x=("y",), y=("x",))
    with pytest.raises(ConfigError, match="circle: PARENTS go round in a circle: "):
        stages.discover("circle")
    add_system(place, "orphan", x=("gone",))
    with pytest.raises(ConfigError, match="orphan: PARENTS name gone"):
        stages.discover("orphan")


@pytest.mark.usefixtures("toy_system")
def test_presets_and_weights_of_a_stage() -> None:
    gan = stages.find("toy", "gan")
    smoke = stages.preset("toy", "gan", "smoke")
    assert isinstance(smoke, gan.Config)
    assert smoke.weights() == ()
    assert smoke.model_copy(update={"needs": ("vgg19",)}).weights() == ("vgg19",)


def test_housekeeping_does_not_name_a_run_and_everything_else_does() -> None:
    base = TrainConfig(max_steps=10, batch_size=2)
    quiet = {"num_workers": 3, "log_every": 1, "image_every": 1, "save_every": 1, "save_every_s": 1.0, "keep_last": 1}
    config = StageConfig(train=base)
    assert StageConfig(train=base.model_copy(update=quiet)).key_config() == config.key_config()
    for name in set(TrainConfig.model_fields) - set(quiet):
        other = StageConfig(train=base.model_copy(update={name: 7}))
        assert other.key_config() != config.key_config(), name
    assert not set(quiet) & set(config.key_config()["train"])


@pytest.mark.parametrize("change", [{"max_steps": 0}, {"ema_decay": 1.0}, {"precision": "fp8"}, {"lr": 1}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig.model_validate({"max_steps": 1, "batch_size": 1, **change})
