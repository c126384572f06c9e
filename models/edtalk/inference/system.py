"""EDTalk as an inference system: a portrait driven by codes of its mouth, pose and expression."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from models.edtalk.inference.animator import Animator, Tracks
from models.edtalk.inference.drivers import Drivers
from models.edtalk.inference.options import FIXED, OWN, PARTS, Options
from models.edtalk.inference.tracks import fit_length, frame_order
from models.edtalk.weights.find import GENERATOR, Weights, find_weights, generator
from models.inference import Faces, Image, Inputs, Precision, Rendering
from storage.errors import ConfigError


def open(options: Options, device: torch.device, precision: Precision) -> "EDTalkRenderer":
    """The generator that the options name; see models.inference.System."""
    weights = find_weights(GENERATOR, options.checkpoint)
    return EDTalkRenderer(options, weights, Animator(generator(weights), device, precision, options.batch_size))


class EDTalkRenderer:
    """See models.inference.Renderer.

    Args:
        options: of the command.
        weights: of the generator.
        animator: with the generator.
    """

    def __init__(self, options: Options, weights: Weights, animator: Animator) -> None:
        self._options, self._weights, self._animator = options, weights, animator
        self.name, self.sha256, self.face_crop = weights.name, weights.sha256, weights.face_crop
        self.size_px = animator.size_px

    def prepare(self, inputs: Inputs) -> Rendering:
        """See models.inference.Renderer."""
        options, portrait = self._options, inputs.portrait
        if portrait is None:
            raise ConfigError("edtalk animates a portrait: name an image or video of a face")
        own = self._animator.codes([next(portrait.squares())])
        drivers = Drivers(options, self._animator, self._weights, inputs, own)
        tracks, num_frames = self._tracks(drivers, inputs, portrait)
        arrays = {}
        for part, path in zip(PARTS, options.output_files(), strict=False):
            codes, shown = getattr(tracks, part), getattr(own, part)
            if shown is not None:
                arrays[path] = (shown if codes is None else codes.expand(num_frames, -1)).numpy()

        def draw(squares: Iterator[Image]) -> Iterator[Image]:
            if portrait.is_video:
                return self._animator.redraw(squares, tracks)
            return self._animator.animate(next(squares), tracks, num_frames)

        order = frame_order(portrait.num_frames, num_frames, options.portrait_length) if portrait.is_video else None
        shown = (0,) if order is None else order.tolist()
        return Rendering(num_frames, draw, shown, self._audio_from(drivers, portrait, num_frames), arrays)

    def _tracks(self, drivers: Drivers, inputs: Inputs, portrait: Faces) -> tuple[Tracks, int]:
        """Tracks at the length of the result, and that length."""
        wanted = inputs.max_frames
        mouth = drivers.mouth(wanted)
        lengths = [0 if mouth is None else len(mouth), inputs.audio.num_frames if inputs.audio else 0]
        pose = drivers.pose(result_length(lengths, wanted))
        lengths += [0 if pose is None else len(pose), portrait.num_frames]
        num_frames = result_length(lengths, wanted)
        expression = drivers.expression(num_frames)
        num_frames = num_frames or result_length([0 if expression is None else len(expression)], wanted)
        if not num_frames:
            raise ConfigError("nothing says how long the result is: give --audio, a video that drives it, or --seconds")
        tracks = {
            part: None if codes is None else fit_length(codes, num_frames, self._options.length_rule(part))
            for part, codes in zip(PARTS, (mouth, pose, expression), strict=True)
        }
        return Tracks(**tracks), num_frames

    def _audio_from(self, drivers: Drivers, portrait: Faces, num_frames: int) -> Path | None:
        """The video whose mouth the result has; not a portrait that is shown back and forth."""
        if self._options.mouth not in (None, OWN, FIXED):
            faces = drivers.faces.get(Path(self._options.mouth).absolute())
            return faces.path if faces and faces.is_video else None
        return portrait.path if portrait.is_video and num_frames <= portrait.num_frames else None


def result_length(lengths: Sequence[int], max_frames: int) -> int:
    """The first length above 1, but no more than `max_frames`, which alone is the length, too; 0 when there is none."""
    found = next((length for length in lengths if length > 1), 0)
    return min(found, max_frames) if found and max_frames else found or max_frames
