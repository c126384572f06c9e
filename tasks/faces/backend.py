"""FaceBackend: what a face detector with 68 landmarks offers to the tracker.

A backend is a module in this folder with a function `load() -> FaceBackend`; its file name is its name in
datasets.yaml.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Detection:
    """One face found by a detector.

    Attributes:
        box: float32 [4] xyxy px in the image that was searched.
        score: higher is surer; the scale is the backend's own.
    """

    box: NDArray[np.float32]
    score: float


class FaceBackend(Protocol):
    """Finds faces and their landmarks in gray images, uint8 [H, W] with any strides.

    Attributes:
        name: the backend's name, that of its file.
        identity: what determines its output: name, version, sha256 of its weights. Part of object keys.
    """

    name: str
    identity: dict[str, str]

    def detect(self, gray: NDArray[np.uint8], min_face_px: int) -> list[Detection]:
        """Every face of at least `min_face_px` (side of its box), surest first."""
        ...

    def verify(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> bool:
        """Whether a face is at about this box (xyxy px): cheap, and more lenient than `detect`."""
        ...

    def landmarks(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32]:
        """68 landmarks (iBUG order) of the face in `box`: float32 [68, 2] px, with fractions."""
        ...


def load_backend(name: str) -> FaceBackend:
    """Build the backend whose module is tasks/faces/<name>.py.

    Raises:
        ConfigError: there is no such backend.
        WeightsError: a file or package that it needs is absent; the message says which and where to put it.
    """
    path = f"{__package__}.{name}"
    if not name.isidentifier() or importlib.util.find_spec(path) is None:
        raise ConfigError(f"no face backend {name!r}: use dlib, face_alignment or mediapipe")
    load = getattr(importlib.import_module(path), "load", None)
    if load is None:
        raise ConfigError(
            f"{name!r} is not a face backend (its module has no `load`): use dlib, face_alignment or mediapipe"
        )
    return load()
