"""What drives each part of a face: options of `talkset animate` to tracks of codes."""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from models.edtalk.inference import audio_codes
from models.edtalk.inference.animator import Animator, Tracks
from models.edtalk.inference.named_expressions import expression as predefined_expression
from models.edtalk.inference.tracks import (
    DROPPED_FRAMES,
    LengthRule,
    fit_length,
    intensified,
    keyframe_codes,
    parse_keyframes,
    read_codes,
    relative,
    smooth,
)
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.expression_predictor import ExpressionPredictor, emotion_vector
from models.edtalk.networks.navigation import Codes
from models.edtalk.weights import find
from models.edtalk.weights.find import Weights, find_weights
from storage.emotions import EMOTIONS, emotion_id
from storage.errors import ConfigError, PreflightError, WeightsError
from tasks.portrait.driving_audio import DrivingSound
from tasks.portrait.find import Portrait, crops, is_video

OWN, FIXED, GENERATED = "own", "fixed", "generated"
# Between GENERATED and the emotions that the sound is spoken with.
PLUS = "+"
CODES_SUFFIX = ".npy"

Rules = Mapping[str, LengthRule]


class Drivers:
    """Makes tracks; a video that drives several parts is read once, and no further than the result needs it.

    What is asked for later may need fewer frames of a video, but not more: `most` falls from call to call.

    Args:
        animator: with the generator.
        weights: of the generator.
        find: path -> where its face is.
        own: codes of the source, or of its first frame.
        sound: of the result, None without any that could drive.
        is_relative: what videos do is added to the source's own codes instead of replacing them.
    """

    def __init__(
        self, animator: Animator, weights: Weights, find: Callable[[Path], Portrait], own: Codes,
        sound: DrivingSound | None, is_relative: bool,
    ) -> None:  # fmt: skip
        self._animator, self._weights, self._find, self._own = animator, weights, find, own
        self._sound, self._is_relative = sound, is_relative
        self._seen: dict[Path, Codes] = {}

    def mouth(self, given: str | None, checkpoint: str | None, most: int) -> Tensor | None:
        """[n, 20] of a file, of the sound where none is given, None for the source's own.

        `most`: frames that the result can have at most, 0 when that is not known.
        """
        if given in (OWN, FIXED):
            return self._fixed("mouth") if given == FIXED else None
        if given is not None:
            return self._from_file("mouth", Path(given), most)
        if self._sound is None:
            return None
        network = find.mouth_model(find_weights(find.MOUTH, checkpoint, self._weights))
        codes = audio_codes.mouth_codes(network.to(self._animator.device), self._sound.mel, self._sound.num_frames)
        self._require("mouth", codes, "the network for sound")
        return smooth(codes) if isinstance(network, Audio2Lip) else codes

    def pose(
        self, given: str | None, checkpoint: str | None, seed: int, temperature: float, most: int
    ) -> Tensor | None:
        """[n, 6] of a file, made up for the sound, or None for the source's own; `most` as of `mouth`."""
        if given in (None, OWN):
            return None
        if given == FIXED:
            return self._fixed("pose")
        if given != GENERATED:
            return self._from_file("pose", Path(given), most)
        sound = self._sound_for("--pose generated")
        network = find.pose_model(find_weights(find.POSE, checkpoint, self._weights)).to(self._animator.device)
        rest = self._own.pose[0]
        codes = audio_codes.pose_codes(network, sound.mel, sound.num_frames, rest, seed, temperature, rest)
        return self._require("pose", codes, "the network for head motion")

    def expression(self, given: str | None, checkpoint: str | None, intensity: float, most: int) -> Tensor | None:
        """[n, 10] of a file, of names over time, of the sound, or None for the source's own; `most` as of `mouth`."""
        if given in (None, OWN):
            return None
        if self._own.expression is None:
            raise ConfigError(f"--expression {given}: {self._weights.name} has no expression bank; use a full model")
        if given == FIXED:
            return self._fixed("expression")
        return intensified(self._expression(given, checkpoint, most), self._own.expression, intensity)

    def _expression(self, given: str, checkpoint: str | None, most: int) -> Tensor:
        own = self._own.expression
        assert own is not None
        if _is_generated(given):
            return self._generated(given, checkpoint)
        if is_file_name(given):
            return self._from_file("expression", Path(given), most)
        return keyframe_codes(parse_keyframes(given), lambda name: self._named(name, checkpoint), own, max(1, most))

    def _generated(self, given: str, checkpoint: str | None) -> Tensor:
        """[n, 10] of the sound, or of the sound and the names of emotions over time behind the plus sign."""
        sound, network = self._sound_for(f"--expression {given}"), self._predictor(checkpoint)
        moods, names = None, given.removeprefix(GENERATED).removeprefix(PLUS)
        if names:
            neutral = torch.zeros(1, len(EMOTIONS))
            frames = parse_keyframes(names)
            moods = keyframe_codes(frames, lambda name: _mood(name, network), neutral, sound.num_frames)
        codes = audio_codes.expression_codes(network.to(self._animator.device), sound.num_frames, moods, sound.mel)
        return self._require("expression", codes, "the network for expressions")

    def _named(self, name: str, checkpoint: str | None) -> Tensor:
        """[1, 10] of a file, of a published expression, or where the model was trained here of its own network.

        Published codes mean something to published weights only: other models have other directions.
        """
        if name.endswith(CODES_SUFFIX):
            return read_codes(Path(name), self._animator.model.shape.num_expression)[:1]
        if self._weights.run_id is None and checkpoint is None:
            return predefined_expression(name, self._animator.model.shape.num_expression)
        network = self._predictor(checkpoint)
        codes = audio_codes.expression_codes(network, 1, _mood(name, network))
        return self._require("expression", codes, "the network for expressions")

    def _predictor(self, checkpoint: str | None) -> ExpressionPredictor:
        try:
            return find.expression_model(find_weights(find.EXPRESSION, checkpoint, self._weights))
        except WeightsError as error:
            more = "name a file of codes, from `talkset edtalk expression-weights`"
            raise WeightsError(f"{error}; or {more}") from None

    def _from_file(self, part: str, path: Path, most: int) -> Tensor:
        """[n, K] of a .npy file, a picture or a video."""
        try:
            path.stat()
        except OSError as error:
            choice = f"a video, a picture, a {CODES_SUFFIX} file, {OWN} or {FIXED}"
            raise PreflightError(f"--{part} {path}: {error.strerror}; name {choice}") from None
        own = getattr(self._own, part)
        if path.suffix == CODES_SUFFIX:
            return read_codes(path, own.shape[1])
        place = path.absolute()
        if place not in self._seen:
            squares = crops(self._find(path), self._animator.size_px)
            # the rules of length look no further than this
            self._seen[place] = self._animator.codes(islice(squares, most + DROPPED_FRAMES) if most else squares)
        codes = getattr(self._seen[place], part)
        return relative(codes, own) if self._is_relative and is_video(path) else codes

    def _fixed(self, part: str) -> Tensor:
        return getattr(self._own, part)[:1]

    def _sound_for(self, option: str) -> DrivingSound:
        if self._sound is None:
            raise ConfigError(f"{option} follows a sound: name one with --audio")
        return self._sound

    def _require(self, part: str, codes: Tensor, what: str) -> Tensor:
        """The codes, if the generator has as many."""
        wanted = getattr(self._own, part).shape[1]
        if codes.shape[1] != wanted:
            raise ConfigError(f"{what} makes {codes.shape[1]} {part} codes, {self._weights.name} has {wanted}")
        return codes


def _mood(name: str, network: ExpressionPredictor) -> Tensor:
    """[1, 8] of an emotion at full intensity, if the network was trained on it."""
    emotion = emotion_id(name)
    if emotion < 0 or not network.num_clips[emotion]:
        known = ", ".join(EMOTIONS[index] for index in network.num_clips.nonzero().flatten().tolist())
        raise ConfigError(f"no expression {name!r}: the network for expressions was trained on {known or 'none'}")
    return emotion_vector(torch.tensor(emotion), torch.tensor(1.0))[None]


def _is_generated(given: str) -> bool:
    return given == GENERATED or given.startswith(GENERATED + PLUS)


def expression_files(given: str | None) -> list[Path]:
    """Files that an expression names: itself, or files of codes among the names over time.

    Raises:
        ConfigError: see models.edtalk.inference.tracks.parse_keyframes.
    """
    if given is None or _is_generated(given):
        return []
    if is_file_name(given):
        return [Path(given)]
    names = (frame.name for frame in parse_keyframes(given))
    return [Path(name) for name in names if name.endswith(CODES_SUFFIX)]


def is_from_file(given: str | None) -> bool:
    """Whether a part is driven by a file: a video, a picture or codes."""
    return given is not None and given not in (OWN, FIXED) and not _is_generated(given) and is_file_name(given)


def is_file_name(given: str) -> bool:
    """Whether an expression is meant as a file, not as names; those may be many, too many for a path."""
    try:
        is_file = Path(given).is_file()
    except OSError:
        is_file = False
    return is_file or (":" not in given and "*" not in given and bool(Path(given).suffix))


def fitted(tracks: Mapping[str, Tensor | None], num_frames: int, rules: Rules) -> Tracks:
    """The tracks at the length of the result."""
    return Tracks(
        **{
            part: None if codes is None else fit_length(codes, num_frames, rules[part])
            for part, codes in tracks.items()
        }
    )
