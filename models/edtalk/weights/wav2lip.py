"""Weights of Wav2Lip (Prajwal et al., ACM MM 2020): its audio encoder and its SyncNet, where they are at hand.

Published files are dicts with a `state_dict`, whose names may begin with `module.`; they are not for commercial use.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.edtalk.weights.published_checkpoints import fit_state
from storage.errors import WeightsError
from storage.weights import missing, resolve

AUDIO_ENCODER, SYNCNET = "wav2lip", "wav2lip_syncnet"


def is_at_hand(name: str) -> bool:
    """Whether the file of the entry is there or may be fetched."""
    return missing(name) is None


def load_wav2lip(name: str, module: nn.Module, part: str = "") -> None:
    """Loads weights of Wav2Lip.

    Args:
        name: entry of storage/weights.toml.
        module: to load into.
        part: beginning of the names of its tensors in the file; the rest of the file is not used.

    Raises:
        WeightsError: the file is missing, or holds something else.
    """
    path = resolve(name)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state: Mapping[str, Tensor] = content.get("state_dict", content)
        plain = {key.removeprefix("module."): value for key, value in state.items()}
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: not a checkpoint of Wav2Lip ({reason}); get it again") from error
    chosen = {key.removeprefix(part): value for key, value in plain.items() if key.startswith(part)}
    fit_state(module, chosen, str(path))
