"""Systems: folders of models/ that hold stages/ (they can be trained); found by folder, not registered.

Nothing here imports a system or torch, so that every command can list and check their names.
"""

import pkgutil
from pathlib import Path

import models
from storage.errors import ConfigError


def part_folders(system: str, part: str = "stages") -> list[str]:
    """The folders of one part of a system; several where `models` is spread over several places, none without it."""
    places = [Path(folder) / system / part for folder in models.__path__]
    return [str(place) for place in places if place.is_dir()]


def systems() -> tuple[str, ...]:
    """Names of the systems that have stages, sorted."""
    packages = [info.name for info in pkgutil.iter_modules(models.__path__) if info.ispkg]
    return tuple(sorted(name for name in packages if part_folders(name)))


def require_system(name: str, place: str = "") -> None:
    """Checks that a system has stages.

    Args:
        name: of the system.
        place: where it was named, for the message.

    Raises:
        ConfigError: there is none of this name; those that exist are named.
    """
    found = systems()
    if name not in found:
        raise ConfigError(f"{place and f'{place}: '}no system {name!r}; there are {', '.join(found) or 'none'}")
