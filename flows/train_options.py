"""TrainOptions: the options of one training, and how its settings override a stage's preset."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import ValidationError

from models.training.engine.config import StageConfig
from storage.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """One training: a system, the data, and how.

    Attributes:
        system: to train.
        snapshot: id of a snapshot or its first digits, or DATASET or DATASET@NUMBER; see $TALKSET_STORES.
        preset: settings of the stages, 'smoke' or 'paper'.
        stages: only these, and those they start from; empty means all.
        device: 'auto' takes a GPU where there is one.
        is_quiet: without progress bars.
        settings: `<stage>.<key>[.<key> ...]` -> value, over the preset's.
        published: third-party weights that stand in for the stage they are of, see models.training.runs.published.
        continue_from: id of a run of the one named stage, whose newest state training begins with.
        allow_dataset_change: whether that run may have been trained on another snapshot.
    """

    system: str
    snapshot: str
    preset: str = "paper"
    stages: Sequence[str] = ()
    device: Device = "auto"
    is_quiet: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None
    continue_from: str | None = None
    allow_dataset_change: bool = False

    def validate(self, trained: Sequence[str]) -> None:
        """Rejects ambiguous combinations.

        Args:
            trained: the stages that this training fits.

        Raises:
            ConfigError: an option is about one stage and none or several are named, or a setting names none of them.
        """
        if self.continue_from and len(self.stages) != 1:
            raise ConfigError("--continue-from is about one stage: name it with --stage, once")
        if self.allow_dataset_change and not self.continue_from:
            raise ConfigError("--allow-dataset-change is about a run that goes on: name it with --continue-from")
        for key in self.settings:
            stage, _, rest = key.partition(".")
            if stage not in trained or not rest:
                raise ConfigError(f"--set {key}: write STAGE.KEY=VALUE; stages of this training: {', '.join(trained)}")

    def config(self, stage: str, preset: StageConfig) -> StageConfig:
        """The preset of a stage with this training's settings.

        Raises:
            ConfigError: there is no such setting (the nearest one is named), or its value is out of range.
        """
        content = preset.model_dump()
        for key, value in self.settings.items():
            if key.startswith(f"{stage}."):
                _set_nested(content, key, value)
        try:
            return type(preset).model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join((stage, *map(str, first["loc"])))
            raise ConfigError(f"--set {place}={first['input']}: {first['msg']}") from None


def parse_settings(given: Sequence[str]) -> Mapping[str, Any]:
    """Key -> value of texts `STAGE.KEY=VALUE`; a value is JSON, or text where it is not valid JSON.

    Raises:
        ConfigError: a text has no '='.
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


def _set_nested(content: dict[str, Any], key: str, value: Any) -> None:
    """Replaces the value at `<stage>.<name>[.<name> ...]` in the stage's nested settings."""
    path = key.split(".")[1:]
    parent: Any = content
    place: Any = content
    for name in path:
        have = list(place) if isinstance(place, dict) else []
        if name not in have:
            advice = f"; the nearest is {near[0]!r}" if (near := get_close_matches(name, have, n=1)) else ""
            raise ConfigError(
                f"--set {key}: there is no setting {name!r}{advice}; there are {', '.join(have) or 'none'}"
            )
        parent, place = place, place[name]
    parent[path[-1]] = value
