"""Published files of EDTalk, taken into use: read strictly, kept as safetensors in the cache of weights."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.edtalk.inference.tracks import read_codes
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.shape import Shape
from models.edtalk.weights.find import GENERATOR, IMPORTED, MOUTH, SYSTEM, shape_of
from models.edtalk.weights.published_checkpoints import fit_state, read_parts
from storage import files
from storage.emotions import EMOTIONS, MEAD_SPELLING, canonical_emotion
from storage.errors import ConfigError, WeightsError
from storage.keys import canonical_json, sha256_file
from storage.weights import imported_folders, listed

# In lower case these are entries of models/weights.toml.
NAMES = ("EDTalk", "EDTalk_lip_pose", "Audio2Lip", "LIA")
# The entry of the codes, which are a file for each emotion.
EXPRESSIONS, EXPRESSION_SUFFIX = "edtalk_expressions", ".npy"
# Module of training, which files of the official trainers hold beside the generator.
_DISCRIMINATOR = "dis"
Parts = Mapping[str, Mapping[str, Tensor]]


def import_published(system: str, path: Path) -> dict[str, str | int]:
    """Reads a published file and writes its weights under the name that inference looks for.

    Args:
        system: 'edtalk'.
        path: EDTalk.pt, EDTalk_lip_pose.pt, Audio2Lip.pt or LIA's vox.pt; what it is, its tensors tell. Or codes of an
            expression, happy.npy say; what they are, the name tells.

    Returns:
        name, licence, source_sha256, and path and sha256 of what was written; num_parameters of a network.
        `discriminator` where the file holds one beside a generator: 'kept', from which training then starts, or why it
        was left out. `replaced` where another file had that name: its sha256.

    Raises:
        ConfigError: another system, an unknown expression, or no codes.
        WeightsError: the file is missing or damaged, holds code, or lacks or has a tensor too many.
    """
    if system != SYSTEM:
        raise ConfigError(f"no published weights are known for {system!r}; there are those of {SYSTEM}")
    return _import_expression(path) if path.suffix == EXPRESSION_SUFFIX else _import_network(path)


def _import_network(path: Path) -> dict[str, str | int]:
    parts = read_parts(path, IMPORTED, (_DISCRIMINATOR,))
    module, name, network = _network(parts, str(path))
    about = {"name": name, "licence": listed()[name.lower()].licence, "source_sha256": sha256_file(path)[0]}
    target = imported_folders(SYSTEM)[-1] / f"{name}.safetensors"
    discriminator, told = _discriminator(parts, str(path)) if module == GENERATOR else (None, {})
    told |= _replaced(target)
    _write(target, _named(module, network) | _named(_DISCRIMINATOR, discriminator), about)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return about | {"num_parameters": num_parameters, "path": str(target), "sha256": sha256_file(target)[0]} | told


def _import_expression(path: Path) -> dict[str, str | int]:
    emotion = canonical_emotion(path.stem)
    if emotion not in EMOTIONS:
        raise ConfigError(f"{path}: named after no emotion; there are {', '.join(EMOTIONS)}")
    codes = read_codes(path, Shape().num_expression)[:1].numpy()
    target = imported_folders(SYSTEM)[-1] / f"{MEAD_SPELLING.get(emotion, emotion)}{EXPRESSION_SUFFIX}"
    told: dict[str, str | int] = {
        "name": emotion,
        "licence": listed()[EXPRESSIONS].licence,
        "source_sha256": sha256_file(path)[0],
    }
    told |= _replaced(target)
    files.make_dir(target.parent)
    buffer = BytesIO()
    np.save(buffer, codes)
    files.replace_durable(target, buffer.getvalue())
    return told | {"path": str(target), "sha256": sha256_file(target)[0]}


def _replaced(target: Path) -> dict[str, str]:
    """The hash of what is there before it is overwritten."""
    return {"replaced": sha256_file(target)[0]} if target.is_file() else {}


def imported() -> list[dict[str, str]]:
    """Name, licence, source_sha256 and path of every imported file."""
    places = [folder / f"{name}.safetensors" for name in NAMES for folder in imported_folders(SYSTEM)]
    return [{"name": path.stem, "path": str(path)} | _about(path) for path in places if path.is_file()]


def _network(parts: Parts, path: str) -> tuple[str, str, nn.Module]:
    """(module, name, network with these tensors)."""
    state = parts.get(GENERATOR)
    if not state:
        network = Audio2Lip()
        fit_state(network, parts.get(MOUTH, {}), path, optional=())
        return MOUTH, "Audio2Lip", network
    is_lia, is_full = "enc.fc.0.weight" in state, "direction_exp.weight" in state
    shape = shape_of(state, path)
    model = Lia(shape) if is_lia else EDTalk(shape, is_full)
    fit_state(model, state, path, optional=())
    return GENERATOR, "LIA" if is_lia else ("EDTalk" if is_full else "EDTalk_lip_pose"), model


def _discriminator(parts: Parts, path: str) -> tuple[Discriminator | None, dict[str, str]]:
    """The generator's discriminator, None where there is none that fits, and what to tell of it."""
    if _DISCRIMINATOR not in parts:
        return None, {}
    network = Discriminator(shape_of(parts[GENERATOR], path))
    try:
        fit_state(network, parts[_DISCRIMINATOR], _DISCRIMINATOR, optional=())
    except WeightsError as error:
        return None, {"discriminator": f"left out, training starts with a new one: {error}"}
    return network, {"discriminator": "kept"}


def _named(module: str, network: nn.Module | None) -> dict[str, Tensor]:
    """`<module>.<key>` of a network's tensors."""
    state = network.state_dict() if network else {}
    return {f"{module}.{key}": value.contiguous() for key, value in state.items()}


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
