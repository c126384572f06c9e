"""Options of `talkset animate` that all systems have; each field becomes an option of every system's command."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.timelaw import FPS

# Those that a system without a portrait does not have.
PORTRAIT_OPTIONS = ("portrait", "paste_back", "largest_face", "cropped", "margin", "face_backend")


class AnimateOptions(BaseModel):
    """What the command does with any system; the system has options of its own.

    Attributes:
        portrait: image or video of the face; None for a system that needs none.
        out: mp4 file to write.
        audio: drives the face, and is the audio of the result.
        seconds: cut the result to this, and its length where nothing else determines it.
        paste_back: write the whole portrait with the new face in it, not the square alone.
        enhance: see tasks.portrait.enhance.
        margin, face_backend: in place of those of the model's training data; see storage.catalog.FaceCrop.
        largest_face, cropped: see tasks.portrait.find.Framing.
        device: see models.training.runs.environment.choose_device.
        precision: see models.inference.System.
        is_quiet: no progress on the terminal; not an option of the command.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    portrait: Path | None = Field(
        default=None, description="Image or video of the face.", json_schema_extra={"metavar": "PORTRAIT"}
    )
    out: Path = Field(description="mp4 file to write.")
    audio: Path | None = Field(default=None, description="Drives the face, and is the audio of the result.")
    seconds: float | None = Field(default=None, ge=1 / FPS, description="Length of the result, at most.")
    paste_back: bool = Field(default=False, description="Write the whole portrait, not the square of the face alone.")
    enhance: bool = Field(default=False, description="Twice the size, by an installed enhancer.")
    largest_face: bool = Field(default=False, description="Where there are several.")
    cropped: bool = Field(default=False, description="All inputs are square crops already.")
    margin: float | None = Field(
        default=None, ge=0, le=2,
        description="Room around the face, a share of its size on each side. (default: as the model was trained)",
    )  # fmt: skip
    face_backend: str | None = Field(
        default=None, description="dlib, face_alignment or mediapipe. (default: as the model was trained)"
    )
    device: str = Field(default="auto", description="auto, cpu or cuda.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Of the networks.")
    is_quiet: bool = True
