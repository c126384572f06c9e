"""What can be asked of a training beside the preset: settings, published weights to start from, a run to go on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from models.training.engine.config import StageConfig
from storage.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked.

    Attributes:
        settings: `<stage>.<key>[.<key> ...]` -> value, over the preset's.
        published: weights of others that stand in for the stage they are of, see models.training.runs.published.
        continue_from: id of a run of the one stage that is named, whose newest state is begun with.
        allow_dataset_change: that run may have been trained on another snapshot.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None
    continue_from: str | None = None
    allow_dataset_change: bool = False

    def require_clear(self, named: Sequence[str], trained: Sequence[str]) -> None:
        """Checks that it can be told what is meant.

        Args:
            named: stages that were asked for by name.
            trained: stages that are going to be trained.

        Raises:
            ConfigError: it cannot.
        """
        if self.continue_from and len(named) != 1:
            raise ConfigError("--continue-from is about one stage: name it with --stage, once")
        if self.allow_dataset_change and not self.continue_from:
            raise ConfigError("--allow-dataset-change is about a run that goes on: name it with --continue-from")
        for key in self.settings:
            stage, _, rest = key.partition(".")
            if stage not in trained or not rest:
                raise ConfigError(f"--set {key}: write STAGE.KEY=VALUE; stages of this training: {', '.join(trained)}")

    def config(self, stage: str, preset: StageConfig) -> StageConfig:
        """The preset of a stage with the settings that are asked for.

        Raises:
            ConfigError: there is no such setting (the nearest one is named), or its value does not fit.
        """
        content = preset.model_dump()
        for key, value in self.settings.items():
            if key.startswith(f"{stage}."):
                _change(content, key, value)
        try:
            return type(preset).model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join((stage, *map(str, first["loc"])))
            raise ConfigError(f"--set {place}={first['input']}: {first['msg']}") from None


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """`STAGE.KEY=VALUE` each; values are JSON, and what is no JSON is text.

    Raises:
        ConfigError: there is no '='.
    """
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write STAGE.KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def _change(content: dict[str, Any], key: str, value: Any) -> None:
    """Sets a value deep in nested settings."""
    *path, last = key.split(".")[1:]
    for name in path:
        content = _below(content, name, key)
    _below(content, last, key)
    content[last] = value


def _below(content: Any, name: str, key: str) -> Any:
    have = list(content) if isinstance(content, dict) else []
    if name in have:
        return content[name]
    advice = f"; the nearest is {near[0]!r}" if (near := get_close_matches(name, have, n=1)) else ""
    raise ConfigError(f"--set {key}: there is no setting {name!r}{advice}; there are {', '.join(have) or 'none'}")
