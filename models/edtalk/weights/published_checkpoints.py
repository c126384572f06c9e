"""Published files: checkpoints (EDTalk.pt, EDTalk_lip_pose.pt, Audio2Lip.pt, LIA's vox.pt) and codes (happy.npy).

A checkpoint is a dict of state dicts, `gen` (and `dis`) or `audio2lip`, beside the optimisers and an
argparse.Namespace. It is read without running any code that it may hold.
"""

import argparse
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from storage.errors import ConfigError, WeightsError

State = Mapping[str, Tensor]

# Names of LIA -> names of EDTalk; everything else under `enc.net_app` and `dec` keeps its name.
LIA_RENAMED = {f"enc.fc.{layer}.": f"fc.{layer}." for layer in range(4)}
# LIA's own code head and bank: EDTalk divides them, so its heads and banks start anew.
LIA_DROPPED = ("enc.fc.4.", "dec.direction.")
# A part that no published file has and whose first values change nothing.
NOT_PUBLISHED = ("dec.rgb_residuals.",)
# The parts that each model has beyond the one before it.
NOT_IN_MOUTH_POSE = (*NOT_PUBLISHED, "exp_fc.", "direction_exp.", "dec.fineadainresblock.")
NOT_IN_LIA = (*NOT_IN_MOUTH_POSE, "lip_fc.", "pose_fc.", "direction_lipnonlip.")
_NUM_NAMED = 3


def read_parts(path: Path, wanted: Collection[str], beside: Collection[str] = ()) -> dict[str, dict[str, Tensor]]:
    """State dicts of a published file, on the CPU; the file is read once.

    Args:
        path: the file.
        wanted: 'gen', 'audio2lip'; those of them that it has are returned.
        beside: 'dis'; what may come with them. Empty where it is there and is no dict of tensors.

    Raises:
        WeightsError: the file is missing or damaged, holds code, or has none of the wanted parts (those that it has are
            named).
    """
    content = _read(path)
    found = {part: dict(state) for part in wanted if _is_state(state := content.get(part))}
    if not found:
        names, have = " or ".join(map(repr, wanted)), ", ".join(map(str, content)) or "nothing"
        raise WeightsError(f"{path}: no weights {names} in it; it holds {have}")
    more = {part: content[part] for part in beside if part in content}
    return found | {part: dict(state) if _is_state(state) else {} for part, state in more.items()}


def _is_state(value: object) -> TypeGuard[State]:
    return isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _read(path: Path) -> Mapping[str, object]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; name the file that was downloaded") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: refused, it is damaged or holds more than weights: {_reason(error)}") from None
    except Exception as error:
        # a damaged archive surfaces as RuntimeError, EOFError, KeyError, ValueError, ...
        raise WeightsError(f"{path}: not a checkpoint file: {_reason(error)}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    return content


def _reason(error: Exception) -> str:
    """What torch says, without its advice on how to load the file all the same."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if "Unsupported" in line or "GLOBAL" in line] or lines
    return (found[0].split(". ")[0] if found else type(error).__name__)[:200]


def lia_to_edtalk(state: State) -> dict[str, Tensor]:
    """The tensors of a LIA state dict that EDTalk has, under its names."""
    kept = {key: value for key, value in state.items() if not key.startswith(LIA_DROPPED)}
    for old, new in LIA_RENAMED.items():
        kept = {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in kept.items()}
    return kept


def fit_state(module: nn.Module, state: State, name: str, optional: tuple[str, ...] = NOT_PUBLISHED) -> None:
    """Loads a state dict strictly, but a bias may be [C] where the module has [1, C, 1, 1].

    Args:
        module: to load into.
        state: its tensors.
        name: of the file or run, for messages.
        optional: beginnings of the names of tensors that may be missing and then keep their values.

    Raises:
        WeightsError: tensors are missing, left over, or of another shape; the first of them are named.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.startswith(optional)]
    unknown = [key for key in state if key not in wanted]
    shared = {key: value for key, value in state.items() if key in wanted}
    wrong = []
    for key, value in shared.items():
        # the same shape but for axes of length 1
        if [size for size in value.shape if size != 1] != [size for size in wanted[key].shape if size != 1]:
            sizes = ("x".join(map(str, tensor.shape)) or "scalar" for tensor in (value, wanted[key]))
            wrong.append(f"{key}: {', not '.join(sizes)}")
    faults = {"missing": missing, "unknown": unknown, "of another shape": wrong}
    if any(faults.values()):
        listing = "; ".join(
            f"{len(keys)} {kind} ({', '.join(keys[:_NUM_NAMED])}{', ...' if len(keys) > _NUM_NAMED else ''})"
            for kind, keys in faults.items()
            if keys
        )
        raise WeightsError(f"{name}: its tensors are not those of {type(module).__name__}: {listing}")
    fitting = {key: value.reshape(wanted[key].shape) for key, value in shared.items()}
    module.load_state_dict(wanted | fitting)


def read_codes(path: Path, num_codes: int) -> Tensor:
    """Codes from a .npy file: [K], [1, K] or [n, K] numbers; float32 [n, K].

    Raises:
        ConfigError: there is no such file, it is no .npy file without objects, of another shape, or not finite.
    """
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError, MemoryError) as error:
        raise ConfigError(f"{path}: not a .npy file of numbers ({str(error).splitlines()[0]})") from None
    if found.dtype.kind not in "fiu":
        raise ConfigError(f"{path}: not a .npy file of numbers")
    rows = found[None] if found.ndim == 1 else found
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != num_codes:
        raise ConfigError(f"{path}: codes of shape {found.shape}, expected [n, {num_codes}] with n frames")
    with np.errstate(over="ignore"):
        codes = rows.astype(np.float32)
    if not np.isfinite(codes).all():
        raise ConfigError(f"{path}: holds NaN or infinite codes")
    return torch.from_numpy(codes)
