"""Options of `talkset animate edtalk`, and the small language in which expressions are named over time."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from models.inference import SystemOptions
from storage.errors import ConfigError

OWN, FIXED, GENERATED = "own", "fixed", "generated"
# Between GENERATED and the emotions that the speech is spoken with.
PLUS = "+"
CODES_SUFFIX = ".npy"
PARTS = ("mouth", "pose", "expression")

# What a track does when its video is shorter than the result: the last frame stays; the video runs back and forth;
# the same without the last 20 frames (when there are more), in which recorded expressions fade.
LengthRule = Literal["hold", "mirror", "mirror-drop-tail"]


def _checkpoint(description: str) -> Any:
    return Field(default=None, description=description, json_schema_extra={"metavar": "RUN|FILE"})


def _driver(choices: str, description: str) -> Any:
    metavar = f"VIDEO|IMAGE|FILE.npy|{choices}"
    return Field(default=None, description=description, json_schema_extra={"metavar": metavar})


class Options(SystemOptions):
    """Animate a portrait by speech, videos, images, named expressions or codes (EDTalk).

    Attributes:
        mouth: video, image, .npy of codes, 'own' or 'fixed'; without it the audio drives the mouth.
        pose: the same, or 'generated' for head motion that follows the audio.
        expression: the same, or an expression's name, or names over time ("0:happy, 2:sad*0.5"); 'generated+' before
            them lets the audio move the face that these emotions have.
        intensity: of the expression, see models.edtalk.inference.tracks.intensified.
        checkpoint, mouth_checkpoint, pose_checkpoint, expression_checkpoint: see weights.find.find_weights.
        mouth_length, pose_length, expression_length, portrait_length: when a video is shorter than the result.
        relative: videos add their change since their first frame to what the portrait shows.
        seed, pose_temperature: of generated motion, see models.edtalk.inference.audio_codes.PoseSampling.
        batch_size: frames at once; the result depends on it by rounding only.
        save_codes: folder for the codes that were used, one .npy file per part.
    """

    mouth: str | None = _driver("own|fixed", "Drives the mouth instead of the audio.")
    pose: str | None = _driver("own|fixed|generated", "Drives the head. (default: own)")
    expression: str | None = _driver(
        "NAME|own|fixed|generated[+NAME]", 'Names also over time: "0:happy, 2.5:sad*0.5, 4:own". (default: own)'
    )
    intensity: float = Field(default=1.0, description="Of the expression: 0 is the portrait's own, 1 as it is.")
    checkpoint: str | None = _checkpoint("Of the generator. (default: what `weights import` has made)")
    mouth_checkpoint: str | None = _checkpoint("Audio to mouth.")
    pose_checkpoint: str | None = _checkpoint("Audio to head motion.")
    expression_checkpoint: str | None = _checkpoint("Audio to expression.")
    mouth_length: LengthRule = Field(default="hold", description="When the video is shorter than the result.")
    pose_length: LengthRule = Field(default="hold", description="The same.")
    expression_length: LengthRule = Field(default="mirror-drop-tail", description="The same.")
    portrait_length: LengthRule = Field(default="mirror", description="The same, when the portrait is a video.")
    relative: bool = Field(default=False, description="Videos change the portrait's own codes.")
    seed: int = Field(default=0, description="Of generated motion.")
    pose_temperature: float = Field(
        default=1.0, ge=0, description="Of generated head motion: 1 as in the training clips, 0 none by chance."
    )
    batch_size: int = Field(default=8, ge=1, description="Frames at once.")
    save_codes: Path | None = Field(default=None, description="Folder for the codes used, as .npy files.")

    def audio_features(self) -> tuple[str, ...]:
        """The mel of EDTalk's networks."""
        return ("mel",)

    def input_files(self) -> list[Path]:
        """Videos, images and codes that drive."""
        named = [Path(given) for given in (self.mouth, self.pose) if given is not None]
        return [*named, *expression_files(self.expression)]

    def output_files(self) -> list[Path]:
        """One file of codes per part."""
        return [self.save_codes / f"{part}{CODES_SUFFIX}" for part in PARTS] if self.save_codes else []

    def length_rule(self, part: str) -> LengthRule:
        """The rule of a part; codes that were made for the length of the result are held: rules are about files."""
        given = getattr(self, part)
        is_from_file = given not in (None, OWN, FIXED) and not is_generated(given) and is_file_name(given)
        return getattr(self, f"{part}_length") if is_from_file else "hold"


def is_generated(given: str) -> bool:
    """Whether an expression follows the audio, alone or with emotions."""
    return given == GENERATED or given.startswith(GENERATED + PLUS)


def is_file_name(given: str) -> bool:
    """Whether an expression is meant as a file, not as names; those may be many, too many for a path."""
    try:
        is_file = Path(given).is_file()
    except OSError:
        is_file = False
    return is_file or (":" not in given and "*" not in given and bool(Path(given).suffix))


def expression_files(given: str | None) -> list[Path]:
    """Files that an expression names: itself, or files of codes among the names over time.

    Raises:
        ConfigError: see `parse_keyframes`.
    """
    if given is None or is_generated(given):
        return []
    if is_file_name(given):
        return [Path(given)]
    names = (frame.name for frame in parse_keyframes(given))
    return [Path(name) for name in names if name.endswith(CODES_SUFFIX)]


@dataclass(frozen=True, slots=True)
class Keyframe:
    """At `time_s` the face shows `name` at `intensity`; see models.edtalk.inference.tracks.intensified."""

    time_s: float
    name: str
    intensity: float = 1.0


def parse_keyframes(text: str) -> tuple[Keyframe, ...]:
    """Keyframes of "0:happy, 2.5:sad*1.5, 4:own", by rising time; a bare name holds from the start on.

    Raises:
        ConfigError: a part is not `time:name` or `time:name*intensity`, or two have the same time.
    """
    frames = []
    for part in text.split(","):
        time_s, colon, rest = part.strip().rpartition(":")
        name, star, intensity = rest.partition("*")
        try:
            frame = Keyframe(float(time_s) if colon else 0.0, name.strip(), float(intensity) if star else 1.0)
        except ValueError:
            frame = Keyframe(-1, "")
        if not (frame.name and 0 <= frame.time_s < math.inf and math.isfinite(frame.intensity)):
            raise ConfigError(f"expression {text!r}: write NAME, NAME*INTENSITY or SECONDS:NAME*INTENSITY, with commas")
        frames.append(frame)
    frames.sort(key=lambda frame: frame.time_s)
    if len({frame.time_s for frame in frames}) < len(frames):
        raise ConfigError(f"expression {text!r}: two keyframes at the same time")
    return tuple(frames)
