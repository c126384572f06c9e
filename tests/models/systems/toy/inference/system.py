"""A portrait that fades; its training data were cropped with a margin of its own."""

import numpy as np

from models.inference import Rendering
from storage.catalog import CropRule, FaceCrop
from storage.errors import ConfigError


def open(options, device, precision):
    if precision != "fp32":
        raise ConfigError(f"--precision {precision}: the toy system has none but fp32")
    return Fader(options.brightness)


class Fader:
    name, sha256, size_px, face_crop = "fader", "f" * 64, 32, FaceCrop(crop=CropRule(margin=0.3))

    def __init__(self, brightness):
        self.brightness = brightness

    def prepare(self, inputs):
        if not inputs.max_frames:
            raise ConfigError("nothing says how long the result is: give --seconds")
        return Rendering(inputs.max_frames, lambda squares: self.fade(next(squares), inputs.max_frames))

    def fade(self, square, num_frames):
        for brightness in np.linspace(1, self.brightness, num_frames):
            yield np.rint(square * brightness).astype(np.uint8)
