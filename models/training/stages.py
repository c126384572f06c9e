"""Stages of a system: the files in models/<system>/stages/, found by folder, not registered.

The stages of a system form a DAG: a stage starts from the 'model' files of its PARENTS.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Protocol, cast

from torch import Tensor

from models.systems import part_folders, require_system
from models.training.engine.config import StageConfig
from models.training.engine.learner import Learner
from storage.errors import ConfigError
from storage.snapshot import Snapshot

ParentStates = Mapping[str, dict[str, Tensor]]


class Stage(Protocol):
    """Interface of a stage's module; the first line of the module's docstring says what the stage trains.

    A module may also define PUBLISHED, the name of published weights that can stand in for a finished run of the stage.

    Attributes:
        VERSION: raised by hand when the same config gives other numbers.
        PARENTS: stages of this system whose 'model' file it starts from.
        FEATURES: extractors that the snapshot must hold.
        Config: the stage's settings.
        PRESETS: at least 'smoke' (CPU, under a minute) and 'paper'.
    """

    VERSION: int
    PARENTS: tuple[str, ...]
    FEATURES: tuple[str, ...]
    Config: type[StageConfig]
    PRESETS: Mapping[str, Any]

    def build(self, config: Any, snapshot: Snapshot, parents: ParentStates) -> Learner:
        """The learner, on the CPU, its first weights drawn from torch's global generator (seeded by the caller).

        Args:
            config: an instance of `Config`.
            snapshot: data.
            parents: stage -> tensors of its 'model' file, `<module>.<key>`.
        """
        ...


def discover(system: str) -> Mapping[str, Stage]:
    """The stages of a system by name (file name), each after its parents; ties alphabetical.

    Raises:
        ConfigError: no such system (those that exist are named), or the PARENTS do not form a DAG.
    """
    require_system(system)
    names = sorted(info.name for info in pkgutil.iter_modules(part_folders(system)))
    found = {name: cast(Stage, importlib.import_module(f"models.{system}.stages.{name}")) for name in names}
    return {name: found[name] for name in _in_order(system, {name: stage.PARENTS for name, stage in found.items()})}


def find(system: str, stage: str) -> Stage:
    """One stage.

    Raises:
        ConfigError: no such system or stage; those that exist are named.
    """
    stages = discover(system)
    if stage not in stages:
        raise ConfigError(f"{system} has no stage {stage!r}; there are {', '.join(stages) or 'none'}")
    return stages[stage]


def preset(system: str, stage: str, name: str) -> StageConfig:
    """A named configuration of a stage.

    Raises:
        ConfigError: as `find`, or there is no such preset.
    """
    presets = find(system, stage).PRESETS
    if name not in presets:
        raise ConfigError(f"{system} {stage} has no preset {name!r}; there are {', '.join(sorted(presets))}")
    return presets[name]


def _in_order(system: str, parents: Mapping[str, tuple[str, ...]]) -> list[str]:
    unknown = {parent for own in parents.values() for parent in own} - set(parents)
    if unknown:
        raise ConfigError(f"{system}: PARENTS name {', '.join(sorted(unknown))}, which are no stages of it")
    sorter, ordered = TopologicalSorter(parents), list[str]()
    try:
        sorter.prepare()
    except CycleError as error:
        raise ConfigError(f"{system}: PARENTS go round in a circle: {' -> '.join(error.args[1])}") from None
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += ready
        sorter.done(*ready)
    return ordered
