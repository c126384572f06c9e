"""Settings of a snapshot as a flat list."""

from collections.abc import Mapping
from typing import Any


def flat(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; empty mappings stay."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{where}.{key}" if where else str(key)
        out |= flat(value, name) if isinstance(value, Mapping) and value else {name: value}
    return out
