"""Drivers: the options of `talkset animate edtalk` to a track of codes for each part of a face."""

from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from models.edtalk.inference import audio_codes
from models.edtalk.inference.animator import Animator
from models.edtalk.inference.named_expressions import expression as predefined_expression
from models.edtalk.inference.options import (
    CODES_SUFFIX,
    FIXED,
    GENERATED,
    OWN,
    PLUS,
    Options,
    is_file_name,
    is_generated,
    parse_keyframes,
)
from models.edtalk.inference.tracks import DROPPED_FRAMES, intensified, keyframe_codes, relative, smooth
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.expression_predictor import ExpressionPredictor, emotion_vector
from models.edtalk.networks.navigation import Codes
from models.edtalk.weights import find
from models.edtalk.weights.find import Weights, find_weights
from models.edtalk.weights.published_checkpoints import read_codes
from models.inference import DrivingAudio, Faces, Inputs
from storage.emotions import EMOTIONS, emotion_id
from storage.errors import ConfigError, PreflightError, WeightsError


class Drivers:
    """Makes tracks; a video that drives several parts is read once, and no further than the result needs it.

    A later part may need fewer frames of a video than an earlier one, but not more: `max_frames`, the most frames that
    the result can have (0 when that is not known), falls from call to call.

    Args:
        options: of the command.
        animator: with the generator.
        weights: of the generator.
        inputs: the audio, and how other files are read.
        own: codes of the portrait, or of its first frame.

    Attributes:
        faces: files that were read, by absolute path.
    """

    def __init__(self, options: Options, animator: Animator, weights: Weights, inputs: Inputs, own: Codes) -> None:
        self._options, self._animator, self._weights = options, animator, weights
        self._inputs, self._own = inputs, own
        self.faces: dict[Path, Faces] = {}
        self._codes: dict[Path, Codes] = {}

    def mouth(self, max_frames: int) -> Tensor | None:
        """[n, 20] of a file, of the audio where none is given, None for the portrait's own."""
        given, audio = self._options.mouth, self._inputs.audio
        if given is not None:
            return None if given == OWN else self._from_file("mouth", given, max_frames)
        if audio is None:
            return None
        network = find.mouth_model(find_weights(find.MOUTH, self._options.mouth_checkpoint, self._weights))
        codes = audio_codes.mouth_codes(network.to(self._animator.device), audio.features["mel"], audio.num_frames)
        self._require("mouth", codes, "the network for audio")
        return smooth(codes) if isinstance(network, Audio2Lip) else codes

    def pose(self, max_frames: int) -> Tensor | None:
        """[n, 6] of a file, generated for the audio, or None for the portrait's own."""
        given = self._options.pose
        if given in (None, OWN):
            return None
        if given != GENERATED:
            return self._from_file("pose", given, max_frames)
        audio = self._audio_for("--pose generated")
        weights = find_weights(find.POSE, self._options.pose_checkpoint, self._weights)
        network, rest = find.pose_model(weights).to(self._animator.device), self._own.pose[0]
        sampling = audio_codes.PoseSampling(self._options.seed, self._options.pose_temperature)
        codes = audio_codes.pose_codes(network, audio.features["mel"], audio.num_frames, sampling, rest, start=rest)
        return self._require("pose", codes, "the network for head motion")

    def expression(self, max_frames: int) -> Tensor | None:
        """[n, 10] of a file, of names over time, of the audio, or None for the portrait's own."""
        given, own = self._options.expression, self._own.expression
        if given in (None, OWN):
            return None
        if own is None:
            raise ConfigError(f"--expression {given}: {self._weights.name} has no expression bank; use a full model")
        if given == FIXED:
            return own[:1]
        if is_generated(given):
            codes = self._generated(given)
        elif is_file_name(given):
            codes = self._from_file("expression", given, max_frames)
        else:
            codes = keyframe_codes(parse_keyframes(given), self._named, own, max(1, max_frames))
        return intensified(codes, own, self._options.intensity)

    def _generated(self, given: str) -> Tensor:
        """[n, 10] of the audio, or of the audio and the names of emotions over time behind the plus sign."""
        audio, network = self._audio_for(f"--expression {given}"), self._predictor()
        emotions, names = None, given.removeprefix(GENERATED).removeprefix(PLUS)
        if names:
            neutral = torch.zeros(1, len(EMOTIONS))
            keyframes = parse_keyframes(names)
            emotions = keyframe_codes(keyframes, lambda name: named_emotion(name, network), neutral, audio.num_frames)
        network = network.to(self._animator.device)
        codes = audio_codes.expression_codes(network, audio.num_frames, emotions, audio.features["mel"])
        return self._require("expression", codes, "the network for expressions")

    def _named(self, name: str) -> Tensor:
        """[1, 10] of a file, of a published expression, or where the model was trained here of its own network.

        Published codes mean something to published weights only: other models have other directions.
        """
        if name.endswith(CODES_SUFFIX):
            return read_codes(Path(name), self._animator.model.shape.num_expression)[:1]
        if self._weights.run_id is None and self._options.expression_checkpoint is None:
            return predefined_expression(name, self._animator.model.shape.num_expression)
        network = self._predictor()
        codes = audio_codes.expression_codes(network, 1, named_emotion(name, network))
        return self._require("expression", codes, "the network for expressions")

    def _predictor(self) -> ExpressionPredictor:
        try:
            weights = find_weights(find.EXPRESSION, self._options.expression_checkpoint, self._weights)
            return find.expression_model(weights)
        except WeightsError as error:
            more = "name a file of codes, from `talkset edtalk expression-weights`"
            raise WeightsError(f"{error}; or {more}") from None

    def _from_file(self, part: str, given: str, max_frames: int) -> Tensor:
        """[n, K] of a .npy file, an image or a video; [1, K] of the portrait for 'fixed'."""
        own, path = getattr(self._own, part), Path(given)
        if given == FIXED:
            return own[:1]
        try:
            path.stat()
        except OSError as error:
            choice = f"a video, an image, a {CODES_SUFFIX} file, {OWN} or {FIXED}"
            raise PreflightError(f"--{part} {path}: {error.strerror}; name {choice}") from None
        if path.suffix == CODES_SUFFIX:
            return read_codes(path, own.shape[1])
        place = path.absolute()
        if place not in self._codes:
            self.faces[place] = self._inputs.read_faces(path)
            squares = self.faces[place].squares()
            # the rules of length look no further than this
            self._codes[place] = self._animator.codes(
                islice(squares, max_frames + DROPPED_FRAMES) if max_frames else squares
            )
        codes = getattr(self._codes[place], part)
        return relative(codes, own) if self._options.relative and self.faces[place].is_video else codes

    def _audio_for(self, option: str) -> DrivingAudio:
        if self._inputs.audio is None:
            raise ConfigError(f"{option} follows the audio: name one with --audio")
        return self._inputs.audio

    def _require(self, part: str, codes: Tensor, network: str) -> Tensor:
        """The codes, if the generator has as many."""
        wanted = getattr(self._own, part).shape[1]
        if codes.shape[1] != wanted:
            raise ConfigError(f"{network} makes {codes.shape[1]} {part} codes, {self._weights.name} has {wanted}")
        return codes


def named_emotion(name: str, network: ExpressionPredictor) -> Tensor:
    """[1, 8] of an emotion at full intensity.

    Raises:
        ConfigError: the network was not trained on it; those that it was trained on are named.
    """
    emotion = emotion_id(name)
    if emotion < 0 or not network.num_clips[emotion]:
        known = ", ".join(EMOTIONS[index] for index in network.num_clips.nonzero().flatten().tolist())
        raise ConfigError(f"no expression {name!r}: the network for expressions was trained on {known or 'none'}")
    return emotion_vector(torch.tensor(emotion), torch.tensor(1.0))[None]
