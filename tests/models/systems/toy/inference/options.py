"""Options of the toy system."""

from pydantic import Field

from models.inference import SystemOptions


class Options(SystemOptions):
    """Fade a portrait to one brightness, frame by frame."""

    brightness: float = Field(default=1.0, ge=0, le=1, description="Of the last frame.")
