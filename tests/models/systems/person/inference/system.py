"""A person without a portrait: a square whose lower rows are as bright as the audio is loud."""

import numpy as np

from models.inference import Rendering
from storage.catalog import FaceCrop
from storage.errors import ConfigError


def open(options, device, precision):
    return Person(options)


class Person:
    name, sha256, size_px, face_crop = "person", "e" * 64, 48, FaceCrop()

    def __init__(self, options):
        self.options = options

    def prepare(self, inputs):
        if inputs.audio is None:
            raise ConfigError("a person is driven by audio: name one with --audio")
        rms = inputs.audio.features["rms"][::2][: inputs.max_frames or None]
        arrays = dict.fromkeys(self.options.output_files(), rms)
        return Rendering(len(rms), lambda squares: self.draw(rms), arrays=arrays)

    def draw(self, rms):
        for loudness in rms:
            image = np.full((48, 48, 3), 200 if self.options.emotion == "happy" else 100, np.uint8)
            image[24:] = np.clip(255 * loudness, 0, 255)
            yield image
