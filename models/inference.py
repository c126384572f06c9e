"""Inference systems: they animate a portrait, or a trained person, frame by frame; found by folder, not registered.

    models/<system>/inference/options.py     Options, a subclass of SystemOptions: those of `talkset animate <system>`
    models/<system>/inference/system.py      open(options, device, precision) -> Renderer

The command imports the options of every system to show its help, so options.py imports neither torch nor networks.
Decoded media and audio are handed in as the records below; flows/animate.py does everything that systems share.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

import models
from storage.catalog import FaceCrop
from storage.errors import ConfigError
from storage.timelaw import SAMPLES_PER_FRAME

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]
Precision = Literal["fp32", "bf16", "fp16"]


class SystemOptions(BaseModel):
    """Base of a system's own options; the first line of the subclass's docstring is the help of its command.

    Each field becomes an option: its description is the help, its constraints are checked, and `metavar` in its
    `json_schema_extra` stands for its value. Supported are str, int, float, bool (a flag), Path, Literal, and each of
    them or None.

    Attributes:
        needs_portrait: True if the system animates an image or video, False if it renders a trained person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    needs_portrait: ClassVar[bool] = True

    def audio_features(self) -> tuple[str, ...]:
        """Extractors whose columns the driving audio must have, such as 'mel' or 'mel50'; audio itself is optional."""
        return ()

    def input_files(self) -> list[Path]:
        """Files that are read and must stay as they are; some may be no files at all.

        Raises:
            ConfigError: an option that names files cannot be parsed.
        """
        return []

    def output_files(self) -> list[Path]:
        """Files beside the video that the rendering's `arrays` will hold."""
        return []


@dataclass(frozen=True, slots=True)
class DrivingAudio:
    """Audio of N frames.

    Attributes:
        samples: [640 N] float32 mono 16 kHz.
        features: column -> array, those of the extractors that the system asked for (`mel` [1 + 640 N // 200, 80]).
    """

    samples: NDArray[np.float32]
    features: Mapping[str, NDArray]

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.samples) // SAMPLES_PER_FRAME


@dataclass(frozen=True, slots=True)
class Faces:
    """The one face of an image or video, cropped by the renderer's own rule.

    Attributes:
        path: of the file.
        is_video: False for an image.
        num_frames: at 25 per second; 1 for an image.
        squares: reads them from the first frame on, uint8 [S, S, 3] RGB; S is the renderer's size.
    """

    path: Path
    is_video: bool
    num_frames: int
    squares: Callable[[], Iterator[Image]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a renderer works on.

    Attributes:
        portrait: whom to animate; None for a system that needs none.
        audio: None where none was named.
        max_frames: the most frames that are wanted, and their number where nothing else determines it; 0 if not given.
        read_faces: finds the face in another file that the options name.
    """

    portrait: Faces | None
    audio: DrivingAudio | None
    max_frames: int
    read_faces: Callable[[Path], Faces]


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a renderer is going to make.

    Attributes:
        num_frames: N.
        draw: takes squares of the portrait, in the order of `portrait_frames`, and yields N images uint8 [S, S, 3] RGB.
            It has read square i when it yields image i, or all of them; image i is pasted back where square i was.
        portrait_frames: which frames of the portrait are redrawn; the default is the first one, for all images.
        audio_from: video whose own audio the result gets where none was named; None leaves the result silent.
        arrays: files beside the video and what to write into them, as .npy.
    """

    num_frames: int
    draw: Callable[[Iterator[Image]], Iterator[Image]]
    portrait_frames: Sequence[int] = (0,)
    audio_from: Path | None = None
    arrays: Mapping[Path, NDArray] = field(default_factory=dict)


class Renderer(Protocol):
    """Loaded networks; `prepare` is called once.

    Attributes:
        name: of the run or file that the weights are from, for people, without a path.
        sha256: of its file.
        size_px: S, side of the squares it reads and of the images it makes.
        face_crop: how faces were found and cropped in its training data.
    """

    name: str
    sha256: str
    size_px: int
    face_crop: FaceCrop

    def prepare(self, inputs: Inputs) -> Rendering:
        """Everything but the images.

        Raises:
            ConfigError: options that do not go together or do not fit the model.
            WeightsError: weights that the inputs call for are missing or damaged.
            PreflightError: a file that drives is missing, unreadable, or shows no face.
        """
        ...


class System(Protocol):
    """What a system's module `system` offers."""

    def open(self, options: Any, device: "torch.device", precision: Precision) -> Renderer:
        """Loads the networks.

        Args:
            options: an instance of the system's Options.
            device: where they run.
            precision: 'bf16' and 'fp16' run them under autocast.

        Raises:
            ConfigError: an option that the system cannot follow; the line names it.
            WeightsError: weights are missing or damaged.
        """
        ...


def systems() -> tuple[str, ...]:
    """Names of the systems that can animate, sorted; imports none of them."""
    names = {info.name for info in pkgutil.iter_modules(models.__path__) if info.ispkg}
    places = [Path(folder) for folder in models.__path__]
    return tuple(
        sorted(name for name in names if any((place / name / "inference/system.py").is_file() for place in places))
    )


def options_of(system: str) -> type[SystemOptions]:
    """The options of a system; imports no networks.

    Raises:
        ConfigError: no such system; those that exist are named.
    """
    if system not in systems():
        raise ConfigError(f"no system {system!r} can animate; there are {', '.join(systems()) or 'none'}")
    return importlib.import_module(f"models.{system}.inference.options").Options


def open_system(system: str, options: SystemOptions, device: "torch.device", precision: Precision) -> Renderer:
    """The system's renderer; see System.open.

    Raises:
        ConfigError: no such system, or see System.open.
        WeightsError: see System.open.
    """
    options_of(system)
    module = cast(System, importlib.import_module(f"models.{system}.inference.system"))
    return module.open(options, device, precision)
