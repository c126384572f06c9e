"""Import of published files of EDTalk: read strictly, kept as safetensors in the cache of weights."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.discriminator import Discriminator
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.networks.shape import Shape
from models.edtalk.weights.find import GENERATOR, IMPORTED, MOUTH, SYSTEM, shape_of
from models.edtalk.weights.published_checkpoints import fit_state, read_codes, read_parts
from models.training.runs.checkpoint import read_metadata
from storage import files
from storage.emotions import EMOTIONS, MEAD_SPELLING, canonical_emotion
from storage.errors import ConfigError, WeightsError
from storage.keys import canonical_json, sha256_file
from storage.weights import imported_folders, listed

# In lower case these are entries of weights.toml.
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
        path: EDTalk.pt, EDTalk_lip_pose.pt, Audio2Lip.pt or LIA's vox.pt, recognised by its tensors; or codes of an
            expression, happy.npy say, recognised by its name.

    Returns:
        name, licence, source_sha256, and path and sha256 of the file written; num_parameters of a network.
        `discriminator` where the file holds one beside a generator: 'kept', from which training then starts, or why it
        was left out. `replaced` where another file had that name: its sha256.

    Raises:
        ConfigError: another system, an unknown expression, or no codes.
        WeightsError: the file is missing or damaged, holds code, or lacks or has a tensor too many.
    """
    if system != SYSTEM:
        raise ConfigError(f"no published weights are known for {system!r}; there are those of {SYSTEM}")
    return import_expression(path) if path.suffix == EXPRESSION_SUFFIX else import_network(path)


def import_network(path: Path) -> dict[str, str | int]:
    """`import_published` of a checkpoint file.

    Raises:
        WeightsError: see there.
    """
    parts = read_parts(path, IMPORTED, (_DISCRIMINATOR,))
    module, name, network = network_of(parts, str(path))
    tensors = {f"{module}.{key}": value.contiguous() for key, value in network.state_dict().items()}
    about = {"name": name, "licence": listed()[name.lower()].licence, "source_sha256": sha256_file(path)[0]}
    more: dict[str, str | int] = {}
    if module == GENERATOR and _DISCRIMINATOR in parts:
        discriminator = Discriminator(shape_of(parts[GENERATOR], str(path)))
        try:
            fit_state(discriminator, parts[_DISCRIMINATOR], _DISCRIMINATOR, optional=())
            state = discriminator.state_dict()
            tensors |= {f"{_DISCRIMINATOR}.{key}": value.contiguous() for key, value in state.items()}
            more["discriminator"] = "kept"
        except WeightsError as error:
            more["discriminator"] = f"left out, training starts with a new one: {error}"
    target = imported_folders(SYSTEM)[-1] / f"{name}.safetensors"
    more |= _replaced(target)
    files.make_dir(target.parent)
    temporary = target.with_name(f".{target.name}.unfinished")
    try:
        with files.out_of_space(target):
            save_file(tensors, temporary, {"talkset": canonical_json(about).decode()})
            files.fsync_file(temporary)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return about | {"num_parameters": num_parameters, "path": str(target), "sha256": sha256_file(target)[0]} | more


def network_of(parts: Parts, path: str) -> tuple[str, str, nn.Module]:
    """(module, name, network with these tensors) of a published file; `path` is for messages.

    Raises:
        WeightsError: the tensors are those of no network that is known.
    """
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


def import_expression(path: Path) -> dict[str, str | int]:
    """`import_published` of codes.

    Raises:
        ConfigError: see there.
    """
    emotion = canonical_emotion(path.stem)
    if emotion not in EMOTIONS:
        raise ConfigError(f"{path}: named after no emotion; there are {', '.join(EMOTIONS)}")
    codes = read_codes(path, Shape().num_expression)[:1].numpy()
    target = imported_folders(SYSTEM)[-1] / f"{MEAD_SPELLING.get(emotion, emotion)}{EXPRESSION_SUFFIX}"
    replaced, licence = _replaced(target), listed()[EXPRESSIONS].licence
    buffer = BytesIO()
    np.save(buffer, codes)
    files.make_dir(target.parent)
    files.replace_durable(target, buffer.getvalue())
    about: dict[str, str | int] = {"name": emotion, "licence": licence, "source_sha256": sha256_file(path)[0]}
    return about | replaced | {"path": str(target), "sha256": sha256_file(target)[0]}


def _replaced(target: Path) -> dict[str, str]:
    """The hash of the file that is about to be overwritten, if there is one."""
    return {"replaced": sha256_file(target)[0]} if target.is_file() else {}


def imported() -> list[dict[str, str]]:
    """Name, licence, source_sha256 and path of every imported file."""
    places = [folder / f"{name}.safetensors" for name in NAMES for folder in imported_folders(SYSTEM)]
    found = []
    for path in (place for place in places if place.is_file()):
        try:
            about = read_metadata(path)
        except (OSError, SafetensorError, ValueError):
            about = {"licence": "unknown: the file cannot be read; import it again"}
        found.append({"name": path.stem, "path": str(path)} | about)
    return found
