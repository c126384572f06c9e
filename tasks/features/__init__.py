"""Feature extractors, one file each; a file in this folder is discovered, nothing is registered.

An extractor module turns one clip into named arrays. Its columns become one Parquet object per shard.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from storage.tables import Column
from tasks.clip import Clip

Arrays = Mapping[str, NDArray[Any] | np.generic | float | int | bool | str]


class Extractor(Protocol):
    """The interface of a module in this folder.

    Attributes:
        VERSION: raised whenever the same input gives other numbers.
        REQUIRES: names of the extractors whose columns `clip.features` must hold.
        LIBRARIES: distributions whose version changes the numbers; part of the object key.
        COLUMNS: the schema; every column of every clip is returned by `extract`.
        Params: frozen pydantic model of the parameters settable in datasets.yaml.
    """

    VERSION: int
    REQUIRES: tuple[str, ...]
    LIBRARIES: tuple[str, ...]
    COLUMNS: tuple[Column, ...]
    Params: type[BaseModel]

    def extract(self, clip: Clip, params: Any, shared: Mapping[str, NDArray] | None) -> Arrays:
        """Columns of one clip; missing frames are NaN (or False in a mask), never dropped."""
        ...


@cache
def discover() -> Mapping[str, Extractor]:
    """Every extractor by name (its file name), sorted."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return {name: cast(Extractor, importlib.import_module(f"{__name__}.{name}")) for name in names}


def in_order(names: Sequence[str]) -> list[str]:
    """`names` such that each comes after those it requires; ties alphabetical.

    Raises:
        KeyError: a name has no file here, or requires one that is not requested.
    """
    found, ordered = discover(), []
    pending = sorted(names)
    while pending:
        ready = [name for name in pending if all(need in ordered for need in found[name].REQUIRES)]
        if not ready:
            raise KeyError(f"extractors {pending} require others that are not requested")
        ordered += ready
        pending = [name for name in pending if name not in ready]
    return ordered


def missing(name: str, params: BaseModel) -> str | None:
    """The reason why the extractor cannot run on this machine (no model file, no package), or None."""
    check = getattr(discover()[name], "missing", None)
    return check(params) if check else None


def weights(name: str, params: BaseModel) -> tuple[str, ...]:
    """Names in storage/weights.toml of the files whose contents change the numbers."""
    listing = getattr(discover()[name], "weights", None)
    return listing(params) if listing else ()


def libraries(name: str, params: BaseModel) -> tuple[str, ...]:
    """Distributions whose version changes the numbers, LIBRARIES and those that the parameters bring in."""
    more = getattr(discover()[name], "libraries", None)
    return (*discover()[name].LIBRARIES, *(more(params) if more else ()))


def key_params(name: str, params: BaseModel) -> dict[str, Any]:
    """The parameters as they enter keys and snapshots: contents instead of paths."""
    given = getattr(discover()[name], "key_params", None)
    return given(params) if given else params.model_dump(mode="json")


def prepare(name: str, clips: Sequence[Clip], params: BaseModel) -> Mapping[str, NDArray] | None:
    """Arrays that the clips of one subject share (face3d: the identity), or None."""
    function = getattr(discover()[name], "prepare", None)
    return function(clips, params) if function else None
