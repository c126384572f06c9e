"""The state of a training as tensors and plain JSON values, and back: exact, and without pickle.

module/<name>/<key>              learner.modules            average/<name>/<key>    averaged copies
optimizer/<name>/<index>/<key>   moments of the parameter with that number
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from storage.errors import ConfigError


def pack_modules(kind: str, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """`<kind>/<name>/<key>` -> tensor of modules by name."""
    return {
        f"{kind}/{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()
    }


def restore_modules(kind: str, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Fills modules with what `pack_modules` gave.

    Raises:
        ConfigError: the tensors are not those of these modules.
    """
    for name, module in modules.items():
        try:
            module.load_state_dict(_under(f"{kind}/{name}/", tensors))
        except RuntimeError as error:
            raise ConfigError(f"the checkpoint does not fit {name!r}: {error}") from None


def pack_optimizer(name: str, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain rest of an optimiser's state.

    Raises:
        TypeError: its groups or states hold something that is neither a tensor per parameter nor a JSON value.
    """
    state = optimizer.state_dict()
    tensors, plain = dict[str, Tensor](), dict[str, dict[str, Any]]()
    for index, entries in state["state"].items():
        plain[str(index)] = {key: value for key, value in entries.items() if not isinstance(value, Tensor)}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{index}/{key}"] = value
    return tensors, {"groups": state["param_groups"], "state": plain}


def restore_optimizer(name: str, optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Fills an optimiser with what `pack_optimizer` gave.

    Raises:
        ConfigError: it has other parameters.
    """
    state = {int(index): dict(entries) for index, entries in plain["state"].items()}
    for path, value in _under(f"optimizer/{name}/", tensors).items():
        index, _, key = path.partition("/")
        state[int(index)][key] = value
    groups = [  # JSON has no tuples, of which hyper-parameters such as betas are made
        {key: tuple(value) if isinstance(value, list) and key != "params" else value for key, value in group.items()}
        for group in plain["groups"]
    ]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise ConfigError(f"the checkpoint does not fit optimiser {name!r}: {error}") from None


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
