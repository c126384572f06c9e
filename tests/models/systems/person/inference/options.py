"""Options of the system that renders a person."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from models.inference import SystemOptions


class Options(SystemOptions):
    """Render a person who opens the mouth as loud as the audio is."""

    needs_portrait: ClassVar[bool] = False

    emotion: Literal["neutral", "happy"] = Field(default="neutral", description="Of the person.")
    save_rms: Path | None = Field(default=None, description="File for the loudness.")

    def audio_features(self):
        return ("mel50",)

    def output_files(self):
        return [self.save_rms] if self.save_rms else []
