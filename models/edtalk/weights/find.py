"""Trained networks of EDTalk for use: from a run of this project, a published file, or one that was imported.

A run is named by its id, the first digits of it, or its folder. The networks that are driven by audio are runs of their
own; those that belong to a generator's run are found by what they started from.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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
from models.training.runs.checkpoint import face_crop_of, load_tensors, read_metadata
from storage.catalog import FaceCrop
from storage.errors import ConfigError, StoreCorrupt, WeightsError
from storage.keys import sha256_file
from storage.runs import RunRecord, list_runs, load_run
from storage.store_layout import run_folder
from storage.stores import known_stores
from storage.weights import how_to_import, imported_file

SYSTEM = "edtalk"
# Modules in 'model' files, and in imported ones.
GENERATOR, MOUTH, POSE, EXPRESSION = "gen", "audio2lip", "pose_flow", "expression"
# Files that `talkset weights import` makes, by module, best first; in lower case entries of storage/weights.toml.
IMPORTED: dict[str, tuple[str, ...]] = {GENERATOR: ("EDTalk", "EDTalk_lip_pose"), MOUTH: ("Audio2Lip",)}
_PUBLISHED_GENERATORS = {name.lower() for name in IMPORTED[GENERATOR]}
_SUFFIXES = {".pt", ".pth", ".safetensors"}
T = TypeVar("T")
# A run, or what a run started from: (stage, id) of a run, (entry of weights.toml, sha256) of published weights.
_Origin = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one module.

    Attributes:
        state: its state dict, on the CPU.
        name: of the run or file, for people, without a path.
        sha256: of the file.
        run: the run's record and the store it lies in, None for other files.
        run_id: of the run that made them, also where only its file is at hand; None for third-party weights.
        face_crop: how faces were found and cropped in their training data.
    """

    state: dict[str, Tensor]
    name: str
    sha256: str
    run: tuple[Path, RunRecord] | None = None
    run_id: str | None = None
    face_crop: FaceCrop = field(default_factory=FaceCrop)


def find_weights(module: str, which: str | None = None, of: Weights | None = None) -> Weights:
    """The tensors of a module.

    Args:
        module: one of those above.
        which: a run, its model file, a published file, an imported one. None takes the one that belongs to the run of
            `of`: a run that started from the same run or published weights, for the mouth of published ones also an
            imported file. Where no run has made `of`, it takes an imported file.
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
        found = _read_run(*find_run(which), module)
    if not found.state:
        stage = f" of stage {found.run[1].key.stage!r}" if found.run else ""
        raise WeightsError(f"{found.name}{stage} holds no {module!r}; name another run or file")
    return found


def generator(weights: Weights) -> EDTalk:
    """The model that makes images, of the sizes that its tensors have.

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
    """The network that turns audio into mouth codes; see models.edtalk.inference.audio_codes."""
    return _built(mouth_network, weights)


def pose_model(weights: Weights) -> PoseFlow:
    """The network that generates head motion; see models.edtalk.inference.audio_codes."""
    return _built(PoseFlow.of, weights).eval()


def expression_model(weights: Weights) -> ExpressionPredictor:
    """The network that turns audio into expression codes; see models.edtalk.inference.audio_codes."""
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
    """From a model file of a run, an imported file, or a published one; no tensors when it is of another module."""
    if path.suffix != ".safetensors":
        return Weights(read_parts(path, IMPORTED).get(module, {}), path.name, sha256_file(path)[0])
    try:
        state, run_id = part_of(load_file(path), module), read_metadata(path).get("run")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from None
    folder, record = path.absolute().parent.parent, None
    if run_id is not None and folder.name == run_id and (folder / "run.json").is_file():
        record = load_run(folder.parents[1], run_id)
    run = (folder.parents[1], record) if record else None
    return Weights(state, path.name, sha256_file(path)[0], run, run_id, face_crop_of(path, run))


def _imported_file(module: str) -> Path:
    names = IMPORTED.get(module, ())
    if not names:
        raise WeightsError(f"no weights for {module!r}: nobody has published any; train them, and name the run")
    for name in names:
        with suppress(WeightsError):
            return imported_file(SYSTEM, name)
    raise WeightsError(f"no weights for {module!r}: name a run or a file, or {how_to_import(SYSTEM, names[0])}")


def _read_run(store: Path, record: RunRecord, module: str) -> Weights:
    folder, model, run = run_folder(store, record.id), record.model(), (store, record)
    tensors = load_tensors(folder, model)
    face_crop = face_crop_of(folder / model.file, run)
    return Weights(part_of(tensors, module), record.id, model.sha256, run, record.id, face_crop)


def find_run(which: str) -> tuple[Path, RunRecord]:
    """The store and record of a run of this system.

    Args:
        which: its id or the first digits of it, in a known store, or its folder.

    Raises:
        ConfigError: there is none, or several fit.
    """
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
        if run.state == "done" and (run.key.stage, run.id) not in line and _origins(run) & line:
            path = run_folder(store, run.id) / run.model().file
            try:
                with safe_open(path, "pt") as file:
                    is_held = any(key.startswith(f"{module}.") for key in file.keys())  # noqa: SIM118 - it is no mapping
            except (OSError, SafetensorError) as error:
                raise StoreCorrupt(f"{path}: not a readable checkpoint ({error})") from error
            if is_held:
                return _read_run(store, run, module)
    if module == MOUTH and any(entry in _PUBLISHED_GENERATORS for entry, _ in line):
        return _read_file(_imported_file(module), module)
    raise WeightsError(
        f"no weights for {module!r}: no finished run in {store} drives {record.id}; train it, or name one"
    )


def _origins(record: RunRecord) -> set[_Origin]:
    """Runs and published weights that a run itself started from."""
    key = record.key
    runs = {(stage, parent.run) for stage, parent in key.parents.items()}
    return runs | {(entry, key.weights[entry]) for entry in key.published.values()}


def _line(store: Path, record: RunRecord) -> set[_Origin]:
    """A run and everything it goes back to."""
    parents = [found for parent in record.key.parents.values() if (found := load_run(store, parent.run))]
    own = {(record.key.stage, record.id)} | _origins(record)
    return own.union(*(_line(store, parent) for parent in parents))
