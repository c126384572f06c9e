"""Published: third-party weights that stand in for a finished run of a stage; the stages behind it start from them.

The constant PUBLISHED of a stage names them; `talkset weights import` imports their file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.training.runs import checkpoint
from models.training.stages import Stage
from storage.errors import ConfigError, WeightsError
from storage.runs import RunRecord
from storage.store_layout import run_folder
from storage.weights import imported_file, sha256_of


@dataclass(frozen=True, slots=True)
class Published:
    """An imported file.

    Attributes:
        entry: of storage/weights.toml.
        path: of the file, tensors `<module>.<key>` as in a 'model' file.
        sha256: of the file.
    """

    entry: str
    path: Path
    sha256: str


def find_published(system: str, found: Mapping[str, Stage], name: str) -> tuple[str, Published]:
    """The stage that published weights stand in for, and the weights.

    Args:
        system: of the stages.
        found: the system's stages.
        name: of the weights, in any case.

    Raises:
        ConfigError: they stand in for no stage; those that do are named.
        WeightsError: they are not imported.
    """
    known = {getattr(stage, "PUBLISHED", None): stage_name for stage_name, stage in found.items()}
    known.pop(None, None)
    match = next((own for own in known if own and own.lower() == name.lower()), None)
    if match is None:
        have = ", ".join(sorted(filter(None, known))) or "none"
        raise ConfigError(f"{system}: no published weights {name!r} that a stage could start from; there are {have}")
    path = imported_file(system, match)
    return known[match], Published(match.lower(), path, sha256_of(path))


def tensors_of(store: Path, parent: RunRecord | Published) -> dict[str, Tensor]:
    """Tensors `<module>.<key>` that a stage starts from.

    Raises:
        StoreCorrupt: the run's model is damaged.
        WeightsError: the imported file is damaged.
    """
    if isinstance(parent, RunRecord):
        return checkpoint.load_tensors(run_folder(store, parent.id), parent.model())
    try:
        return load_file(parent.path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{parent.path}: not readable ({error}); import it again") from None
