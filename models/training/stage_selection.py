"""Which stages of a system one training fits: those named, those they start from, and the preset of each."""

from collections.abc import Collection, Mapping, Sequence

from models.training.engine.config import StageConfig
from models.training.stages import Stage, preset
from storage.errors import ConfigError


def chosen_stages(
    found: Mapping[str, Stage], system: str, stages: Collection[str] = (), given: Collection[str] = ()
) -> list[str]:
    """The named stages and all that they start from, in the order of the DAG; without names, all stages.

    Args:
        found: the system's stages, each after its parents.
        system: its name.
        stages: names; empty for all stages, or where some are given, for all that start from these, directly or not.
        given: stages that published weights stand in for; neither they nor what only they start from are trained.

    Raises:
        ConfigError: the system has no such stage, or a named one is given.
    """
    if unknown := sorted(set(stages) - set(found)):
        raise ConfigError(f"{system} has no stage {unknown[0]!r}; there are {', '.join(found)}")
    if twice := sorted(set(stages) & set(given)):
        raise ConfigError(f"{system} {twice[0]}: published weights stand in for it, so it is not trained")
    wanted = set(stages)
    if not wanted:
        reached = set(given)
        for name, stage in found.items():
            if not given or reached & set(stage.PARENTS):
                reached.add(name)
        wanted = reached - set(given)
    for name in reversed(list(found)):
        if name in wanted:
            wanted |= set(found[name].PARENTS) - set(given)
    return [name for name in found if name in wanted]


def require_used(found: Mapping[str, Stage], system: str, chosen: Collection[str], given: Collection[str]) -> None:
    """Checks that some chosen stage starts from each given one.

    Raises:
        ConfigError: none does, so that everything would be trained from nothing.
    """
    for name in given:
        users = [stage for stage in found if name in found[stage].PARENTS]
        if not set(users) & set(chosen):
            raise ConfigError(
                f"{system}: published weights stand in for {name}, from which {', '.join(users)} start, but none of "
                f"these is trained; name one of them with --stage, or weights of another stage"
            )


def presets_of(found: Mapping[str, Stage], system: str, chosen: Sequence[str], name: str) -> dict[str, StageConfig]:
    """The preset of each chosen stage; stages that lack it take 'paper' when others have it.

    Raises:
        ConfigError: no chosen stage has it.
    """
    if not any(name in found[stage].PRESETS for stage in chosen):
        have = sorted({other for stage in chosen for other in found[stage].PRESETS})
        raise ConfigError(f"{system}: no stage of this training has a preset {name!r}; there are {', '.join(have)}")
    return {stage: preset(system, stage, name if name in found[stage].PRESETS else "paper") for stage in chosen}
