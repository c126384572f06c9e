"""Trained networks of EDTalk for use: from a run of this project, a published file, or one that was imported.

A run is named by its id, the first digits of it, or its folder. The networks that are driven by sound are runs of their
own; those that belong to a generator's run are found by what they started from.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.expression_predictor import ExpressionPredictor
from models.edtalk.networks.pose_flow import PoseFlow
from models.edtalk.networks.shape import CORE_PX, Shape
from models.edtalk.weights.mouth_networks import MouthNetwork, mouth_network
from models.edtalk.weights.parent_state import has_rgb_residual, part_of
from models.edtalk.weights.published_checkpoints import fit_state, read_parts
from models.training.runs import checkpoint
from storage.errors import ConfigError, StoreCorrupt, WeightsError
from storage.keys import sha256_file
from storage.runs import RunRecord, list_runs, load_run
from storage.store_layout import run_folder
from storage.stores import known_stores
from storage.weights import how_to_import, imported_file

SYSTEM = "edtalk"
# Modules in 'model' files, and in imported ones.
GENERATOR, MOUTH, POSE, EXPRESSION = "gen", "audio2lip", "pose_flow", "expression"
# Files that `talkset weights import` makes, by module, best first; in lower case entries of models/weights.toml.
IMPORTED: dict[str, tuple[str, ...]] = {GENERATOR: ("EDTalk", "EDTalk_lip_pose"), MOUTH: ("Audio2Lip",)}
_PUBLISHED_GENERATORS = {name.lower() for name in IMPORTED[GENERATOR]}
_SUFFIXES = {".pt", ".pth", ".safetensors"}
T = TypeVar("T")
# What a run is or started from: (stage, id) of a run, (entry of models/weights.toml, sha256) of published weights.
_Origin = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one module.

    Attributes:
        state: its state dict, on the CPU.
        name: of the run or file, for people, without a path.
        sha256: of the file.
        run: the run's record and the store it lies in, None for other files.
        run_id: of the run that made them, also where only its file is at hand; None for those of others.
    """

    state: dict[str, Tensor]
    name: str
    sha256: str
    run: tuple[Path, RunRecord] | None = None
    run_id: str | None = None


def find_weights(module: str, which: str | None = None, of: Weights | None = None) -> Weights:
    """The tensors of a module.

    Args:
        module: one of those above.
        which: a run, its model file, a published file, an imported one. None takes what belongs to the run of `of`: a
            run that started from the same run or published weights, for the mouth of published ones also an imported
            file. Where no run has made `of`, it takes an imported file.
        of: weights of the generator that the module is to drive.

    Raises:
        WeightsError: there are none, or they are damaged or of another module.
        ConfigError: no such run, or several fit.
    """
    if which is None:
        found = _companion(module, of) if of and of.run_id else _read_file(_imported_file(module), module)
    elif Path(which).is_file():
        found = _read_file(Path(which), module)
    elif Path(which).suffix in _SUFFIXES:
        raise WeightsError(f"{which}: no such file; name a checkpoint file or a run")
    else:
        found = _read_run(*_find_run(which), module)
    if not found.state:
        stage = f" of stage {found.run[1].key.stage!r}" if found.run else ""
        raise WeightsError(f"{found.name}{stage} holds no {module!r}; name another run or file")
    return found


def generator(weights: Weights) -> EDTalk:
    """The model that makes pictures, of the sizes that its tensors tell.

    Raises:
        WeightsError: the tensors are not those of an EDTalk model.
    """
    state, name = weights.state, weights.name
    if "enc.fc.0.weight" in state:
        raise WeightsError(f"{name}: holds LIA's generator, whose codes are undivided; train with --published LIA")
    model = EDTalk(shape_of(state, name), "direction_exp.weight" in state, has_rgb_residual(state))
    fit_state(model, state, name)
    return model


def mouth_model(weights: Weights) -> MouthNetwork:
    """The network that turns sound into mouth codes; see models.edtalk.inference.audio_codes."""
    return _built(mouth_network, weights)


def pose_model(weights: Weights) -> PoseFlow:
    """The network that makes up head motion; see models.edtalk.inference.audio_codes."""
    return _built(PoseFlow.of, weights).eval()


def expression_model(weights: Weights) -> ExpressionPredictor:
    """The network that turns sound into expression codes; see models.edtalk.inference.audio_codes."""
    return _built(ExpressionPredictor.of, weights).eval()


def shape_of(state: Mapping[str, Tensor], name: str) -> Shape:
    """Sizes of the networks that the tensors of a generator belong to; `name` is for the message.

    Raises:
        WeightsError: they are no generator's.
    """
    num_levels = sum(key.startswith("dec.to_flows.") and key.endswith(".conv.weight") for key in state)
    heads = {"num_mouth": "lip_fc.2.weight", "num_pose": "pose_fc.2.weight", "num_expression": "exp_fc.2.weight"}
    try:
        sizes = {field: len(state[key]) for field, key in heads.items() if key in state}
        width = state["dec.input.input"].shape[1] / Shape().channels(CORE_PX)
        dim = state["dec.conv1.conv.modulation.weight"].shape[1]
        return Shape(size_px=CORE_PX << num_levels, width=width, latent_dim=dim, **sizes)
    except (KeyError, IndexError, ValueError, ConfigError) as error:
        raise WeightsError(f"{name}: no generator of EDTalk ({error})") from None


def _built(make: Callable[[Mapping[str, Tensor]], T], weights: Weights) -> T:
    try:
        return make(weights.state)
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"{weights.name}: not the tensors it should hold ({str(error).splitlines()[0]})") from None


def _read_file(path: Path, module: str) -> Weights:
    try:
        state = part_of(load_file(path), module) if path.suffix == ".safetensors" else _published(path, module)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from None
    run_id, run = _maker(path)
    return Weights(state, path.name, sha256_file(path)[0], run, run_id)


def _maker(path: Path) -> tuple[str | None, tuple[Path, RunRecord] | None]:
    """The id of the run that made a file; its store and record, where it lies in its run's folder."""
    if path.suffix != ".safetensors":
        return None, None
    with safe_open(path, "pt") as file:
        run_id = json.loads((file.metadata() or {}).get("talkset", "{}")).get("run")
    folder = path.absolute().parent.parent
    if run_id is None or folder.name != run_id or not (folder / "run.json").is_file():
        return run_id, None
    store = folder.parent.parent
    record = load_run(store, run_id)
    return run_id, (store, record) if record else None


def _published(path: Path, module: str) -> dict[str, Tensor]:
    """The state dict of a module in a published file; empty when it is that of another one."""
    return read_parts(path, IMPORTED).get(module, {})


def _imported_file(module: str) -> Path:
    names = IMPORTED.get(module, ())
    if not names:
        raise WeightsError(f"no weights for {module!r}: nobody has published any; train them, and name the run")
    for name in names:
        with suppress(WeightsError):
            return imported_file(SYSTEM, name)
    raise WeightsError(f"no weights for {module!r}: name a run or a file, or {how_to_import(SYSTEM, names[0])}")


def _read_run(store: Path, record: RunRecord, module: str) -> Weights:
    model = record.model()
    tensors = checkpoint.load_tensors(run_folder(store, record.id), model)
    return Weights(part_of(tensors, module), record.id, model.sha256, (store, record), record.id)


def _find_run(which: str) -> tuple[Path, RunRecord]:
    folder = Path(which).absolute()
    if (folder / "run.json").is_file():
        stores, digits = [folder.parents[1]], folder.name
    else:
        stores, digits = known_stores(), which
    runs = [(store, run) for store in stores for run in list_runs(store) if run.key.system == SYSTEM]
    found = [pair for pair in runs if pair[1].id == digits] or [pair for pair in runs if pair[1].id.startswith(digits)]
    if len(found) != 1:
        have = ", ".join(run.id for _, run in runs) or "none"
        raise ConfigError(f"checkpoint {which!r}: no such file, and {len(found)} runs fit it (known runs: {have})")
    return found[0]


def _companion(module: str, of: Weights) -> Weights:
    """The newest finished run whose model holds the module and that started from what the generator started from.

    The published Audio2Lip drives what started from published weights of EDTalk, if no run does.
    """
    if of.run is None:
        raise WeightsError(
            f"no weights for {module!r}: {of.name} was made by run {of.run_id}, which is not where the file lies; "
            "name the run, or the other network's, too"
        )
    store, record = of.run
    line = _line(store, record)
    for run in reversed(list_runs(store)):
        is_other = (run.key.stage, run.id) not in line
        if run.state == "done" and is_other and _origins(run) & line and _holds(store, run, module):
            return _read_run(store, run, module)
    if module == MOUTH and any(entry in _PUBLISHED_GENERATORS for entry, _ in line):
        return _read_file(_imported_file(module), module)
    raise WeightsError(
        f"no weights for {module!r}: no finished run in {store} drives {record.id}; train it, or name one"
    )


def _holds(store: Path, record: RunRecord, module: str) -> bool:
    """Whether a run's model file names the module; reads no tensor."""
    path = run_folder(store, record.id) / record.model().file
    try:
        with safe_open(path, "pt") as file:
            return any(key.startswith(f"{module}.") for key in file.keys())  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise StoreCorrupt(f"{path}: not a readable checkpoint ({error})") from error


def _origins(record: RunRecord) -> set[_Origin]:
    """What a run itself started from."""
    key = record.key
    runs = {(stage, parent.run) for stage, parent in key.parents.items()}
    return runs | {(entry, key.weights[entry]) for entry in key.published.values()}


def _line(store: Path, record: RunRecord) -> set[_Origin]:
    """A run and all it goes back to."""
    parents = [found for parent in record.key.parents.values() if (found := load_run(store, parent.run))]
    own = {(record.key.stage, record.id)} | _origins(record)
    return own.union(*(_line(store, parent) for parent in parents))
