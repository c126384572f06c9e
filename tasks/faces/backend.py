"""FaceBackend: the interface of a face detector with 68 landmarks; and the parameters of the tracker.

A backend is a module in this folder with a function `load() -> FaceBackend` and three constants with all that its
numbers depend on: CODE_FILES (files in tasks/), LIBRARIES (distributions), WEIGHT_FILES (names in
storage/weights.toml). Its file name is its name in datasets.yaml.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

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
        identity: name, version and sha256 of its weights, for logs.
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


class TrackParams(BaseModel):
    """Parameters of the tracking.

    Attributes:
        detect_every: a followed face is verified at least every so many frames.
        discover_every: a whole frame is searched for new faces at least every so many frames.
        min_face_px: side of the smallest face box to find; None: 15 % of the frame's shorter side, at least 56.
        max_gap_frames: a face missing for at most so many frames, then found at about the same place, keeps its track.
        cut_threshold: mean absolute gray difference between frames that makes a scene cut (inside shots of real clips
            at most 16; cuts between them 26 to 99).
        max_flash_frames: an image that comes back within so many frames was interrupted by a flash, not cut.
        max_jump: RMS landmark movement from frame to frame in RMS radii, above which it is not the same face (real,
            fast: 0.47).
        max_shape_change: RMS change of the landmarks' shape (position, size and roll removed), likewise (real: 0.14).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    detect_every: int = Field(default=25, ge=1)
    discover_every: int = Field(default=250, ge=1)
    min_face_px: int | None = Field(default=None, ge=8)
    max_gap_frames: int = Field(default=25, ge=0)
    cut_threshold: float = Field(default=22.0, gt=0)
    max_flash_frames: int = Field(default=3, ge=0, le=12)
    max_jump: float = Field(default=0.6, gt=0)
    max_shape_change: float = Field(default=0.2, gt=0)


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """Code, libraries and weights that determine a backend's numbers; part of object keys.

    Attributes:
        code_files: files in tasks/.
        libraries: distributions whose version counts.
        weight_files: names in storage/weights.toml.
    """

    code_files: tuple[str, ...]
    libraries: tuple[str, ...]
    weight_files: tuple[str, ...]


def backend_facts(name: str) -> BackendFacts:
    """The facts of the backend tasks/faces/<name>.py, without loading any model.

    Raises:
        ConfigError: there is no such backend.
    """
    module = _module(name)
    return BackendFacts(module.CODE_FILES, module.LIBRARIES, module.WEIGHT_FILES)


def load_backend(name: str, device: str | None = None) -> FaceBackend:
    """Build the backend whose module is tasks/faces/<name>.py.

    Args:
        name: name of the module.
        device: torch device of a backend that can use a GPU; None is a GPU if there is one.

    Raises:
        ConfigError: there is no such backend.
        WeightsError: a file or package that it needs is absent; the message names it and its place.
    """
    return _module(name).load(device)


def _module(name: str) -> ModuleType:
    path = f"{__package__}.{name}"
    if not name.isidentifier() or importlib.util.find_spec(path) is None:
        raise ConfigError(f"no face backend {name!r}: use dlib, face_alignment or mediapipe")
    module = importlib.import_module(path)
    if not hasattr(module, "load"):
        raise ConfigError(
            f"{name!r} is not a face backend (its module has no `load`): use dlib, face_alignment or mediapipe"
        )
    return module
