"""Published files of EDTalk, taken into use: read strictly, kept as safetensors in the cache of weights."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.edtalk.audio2lip import Audio2Lip
from models.edtalk.checkpoints import fit_state
from models.edtalk.lia import Lia
from models.edtalk.model import EDTalk
from models.edtalk.parent_state import part_of
from models.edtalk.trained import GENERATOR, MOUTH, SYSTEM, published_tensors, shape_of
from storage import files
from storage.errors import ConfigError
from storage.keys import canonical_json, sha256_file
from storage.weights import imported_folders, listed

# In lower case these are entries of models/weights.toml.
NAMES = ("EDTalk", "EDTalk_lip_pose", "Audio2Lip", "LIA")


def import_published(system: str, path: Path) -> dict[str, str | int]:
    """Reads a published file and writes its weights under the name that inference looks for.

    Args:
        system: 'edtalk'.
        path: EDTalk.pt, EDTalk_lip_pose.pt, Audio2Lip.pt or LIA's vox.pt; what it is, its tensors tell.

    Returns:
        name, licence, source_sha256, num_parameters, and path and sha256 of what was written.

    Raises:
        ConfigError: another system.
        WeightsError: the file is missing or damaged, holds code, or lacks or has a tensor too many.
    """
    if system != SYSTEM:
        raise ConfigError(f"no published weights are known for {system!r}; there are those of {SYSTEM}")
    module, name, network = _network(published_tensors(path), str(path))
    about = {"name": name, "licence": listed()[name.lower()].licence, "source_sha256": sha256_file(path)[0]}
    target = imported_folders(SYSTEM)[-1] / f"{name}.safetensors"
    state = {f"{module}.{key}": value.contiguous() for key, value in network.state_dict().items()}
    _write(target, state, about)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return about | {"num_parameters": num_parameters, "path": str(target), "sha256": sha256_file(target)[0]}


def imported() -> list[dict[str, str]]:
    """Name, licence, source_sha256 and path of every imported file."""
    places = [folder / f"{name}.safetensors" for name in NAMES for folder in imported_folders(SYSTEM)]
    return [{"name": path.stem, "path": str(path)} | _about(path) for path in places if path.is_file()]


def _network(tensors: dict[str, Tensor], path: str) -> tuple[str, str, nn.Module]:
    """(module, name, network with these tensors)."""
    state = part_of(tensors, GENERATOR)
    if not state:
        network = Audio2Lip()
        fit_state(network, part_of(tensors, MOUTH), path, optional=())
        return MOUTH, "Audio2Lip", network
    is_lia, is_full = "enc.fc.0.weight" in state, "direction_exp.weight" in state
    shape = shape_of(state, path)
    model = Lia(shape) if is_lia else EDTalk(shape, is_full)
    fit_state(model, state, path, optional=())
    return GENERATOR, "LIA" if is_lia else ("EDTalk" if is_full else "EDTalk_lip_pose"), model


def _write(target: Path, state: dict[str, Tensor], about: dict[str, str]) -> None:
    files.make_dir(target.parent)
    temporary = target.with_name(f".{target.name}.unfinished")
    try:
        with files.out_of_space(target):
            save_file(state, temporary, {"talkset": canonical_json(about).decode()})
            files.fsync_file(temporary)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _about(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("talkset", "{}"))
    except (OSError, SafetensorError, ValueError):
        return {"licence": "unknown: the file cannot be read; import it again"}
