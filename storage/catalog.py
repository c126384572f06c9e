"""datasets.yaml: one strict block per dataset; unknown keys are errors that name the key and the nearest valid one."""

import difflib
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from storage.errors import ConfigError
from storage.timelaw import FPS

CATALOG_FILE = "datasets.yaml"

# `{subject}` or `{take:\\d+}` in the pattern of a layout.
_GROUP = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")

# More than any catalog holds, and less than what aliases of aliases unfold to.
_MAX_VALUES = 20_000
_MAX_NUMBER = 1 << 63


class Block(BaseModel):
    """Base of every part of a dataset block: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AudioRule(Block):
    """Where a source's audio comes from.

    Attributes:
        path: template relative to the root, filled with the pattern's groups; None means embedded in the video.
        required: False lets silent sources pass; their audio is zeros and `has_audio` is False.
        max_gap_s: largest difference between the video's and the audio's span; more is AV_LENGTH_MISMATCH.
    """

    path: str | None = None
    required: bool = True
    max_gap_s: float = Field(default=1.0, ge=0)


class ClipRule(Block):
    """How a shot becomes clips.

    Attributes:
        length_s: seconds per clip, or 'whole' for one clip per take.
        min_tail_s: shortest remainder that is still a clip, whole takes included; shorter ones are dropped with
            TOO_SHORT.
        max_s: a whole take longer than this is split into windows of this length.
    """

    length_s: Annotated[float, Field(ge=0.2)] | Literal["whole"] = 5.0
    min_tail_s: float = Field(default=3.0, gt=0)
    max_s: float = Field(default=60.0, ge=0.2)

    @property
    def frames(self) -> int:
        """Frames of a full clip."""
        return round((self.max_s if self.length_s == "whole" else self.length_s) * FPS)

    @property
    def min_frames(self) -> int:
        """Frames of the shortest clip."""
        return min(round(self.min_tail_s * FPS), self.frames)


class AnnotationRule(Block):
    """HDTF's official lists: time spans and face boxes of each video.

    Attributes:
        folder: relative to the root; holds <subset>_annotion_time.txt, <subset>_crop_wh.txt, <subset>_resolution.txt.
    """

    folder: str


class Layout(Block):
    """One way files lie under the root.

    Attributes:
        pattern: relative path with named groups, `{subject}/video/{view}/{take}.mp4`; `{name:regex}` narrows a group.
        name: template of the clips' base name; '#k' is added where a source gives several clips.
        subject: template of the identity label.
        select: group -> values that are wanted; other files are counted, not taken.
        audio, clips, annotations: rules of this layout.
    """

    pattern: str
    name: str
    subject: str = "{subject}"
    select: dict[str, list[str]] = {}
    audio: AudioRule = AudioRule()
    clips: ClipRule = ClipRule()
    annotations: AnnotationRule | None = None

    @model_validator(mode="after")
    def _names_only_groups_of_the_pattern(self) -> "Layout":
        groups = set(compile_pattern(self.pattern).groupindex)
        templates = {"name": self.name, "subject": self.subject, "audio.path": self.audio.path or ""}
        used = {where: template_fields(template) for where, template in templates.items()} | {
            "select": set(self.select)
        }
        allowed = groups | ({"span"} if self.annotations else set())
        for where, names in used.items():
            for name in sorted(names - (allowed if where == "name" else groups)):
                raise ValueError(
                    f"{where} uses {{{name}}}, the pattern has no such group{nearest(name, sorted(groups))}"
                )
        return self


class CropRule(Block):
    """The square crop: output size, room around the face, and what one crop box holds for.

    Cut reads it from the dataset; a model file carries the rule of its training data, by which inference crops. The
    default is EDTalk's published crop.

    Attributes:
        size_px: side of the stored frame; in inference the model has its own.
        margin: growth of the face box on each side, as a share of its longer side (0.1 on each side is EDTalk's 1.2 x).
        scope: 'clip' (one box per clip) or 'source' (one box for all clips of a source; decodes a second time).
        jpeg_quality: 95 or more.
    """

    size_px: Literal[256, 512] = 256
    margin: float = Field(default=0.1, ge=0, le=2)
    scope: Literal["clip", "source"] = "clip"
    jpeg_quality: int = Field(default=95, ge=95, le=100)


class FaceRule(Block):
    """Who finds the face, and how small it may be.

    Attributes:
        backend: 'dlib', 'face_alignment' or 'mediapipe' (a file in tasks/faces).
        tracking: parameters of the tracker, by name; see tasks.faces.track.TrackParams.
        max_faces: a clip with more concurrent faces for over half its length is dropped as MULTI_FACE; None keeps the
            largest, longest tracked one.
    """

    backend: str = "dlib"
    tracking: dict[str, float | None] = {}
    max_faces: int | None = Field(default=None, ge=1)


class FaceCrop(Block):
    """How the faces of a dataset were found and cropped, which a model trained on it expects of its input, too.

    Attributes:
        crop, face: rules of the dataset; the defaults stand for published weights and for model files without any.
    """

    crop: CropRule = CropRule()
    face: FaceRule = FaceRule()

    @staticmethod
    def of(settings: Mapping[str, Any]) -> "FaceCrop":
        """The rules among more settings: the config of a snapshot, or the metadata of a model file."""
        return FaceCrop.model_validate({name: settings[name] for name in FaceCrop.model_fields if name in settings})


class Threshold(Block):
    """Bounds of one score; a clip outside is rejected at publish time, its data stay."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _leaves_room(self) -> "Threshold":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing could pass")
        return self


class SplitRule(Block):
    """Which subject goes where. A subject is never split; listed ones first, the rest by a hash of the label.

    Attributes:
        test, val: subjects that belong there.
        test_share, val_share: share of the other subjects.
    """

    test: list[str] = []
    val: list[str] = []
    test_share: float = Field(default=0.0, ge=0, le=1)
    val_share: float = Field(default=0.1, ge=0, le=1)


class TrainingRule(Block):
    """When a snapshot is worth a training run; see flows/pipeline/gate.py.

    Attributes:
        systems: names of the systems that train on it; a refresh checks that they exist.
        preset: of their stages' settings, 'smoke' or 'paper'.
        stages: only these of each system and those they start from, where it has them; empty means all.
        device: 'cuda' waits for a machine with a GPU, 'any' takes the CPU where there is none.
        min_clips, min_hours, min_subjects: floor of what is kept.
        max_failed_share: of the sources.
        min_change: share of clips that must differ from the last trained snapshot.
        quality: score column -> bounds of its median over the kept clips.
        min_free_gib: free disk for checkpoints.
    """

    systems: list[str] = []
    preset: str = "paper"
    stages: list[str] = []
    device: Literal["cuda", "any"] = "cuda"
    min_clips: int = 1
    min_hours: float = 0.0
    min_subjects: int = 1
    max_failed_share: float = 0.05
    min_change: float = 0.05
    quality: dict[str, Threshold] = {}
    min_free_gib: float = Field(default=5.0, ge=0)


class LimitRule(Block):
    """Bounds that protect a run against hostile or broken files.

    Attributes:
        max_pixels, max_seconds, max_fps: of one video.
        max_wall_s: wall time to read one video.
        max_corrupt_share: more corrupt frames than this reject the source; fewer drop the clips that hold them.
    """

    max_pixels: int = Field(default=8192 * 4352, gt=0)
    max_seconds: float = Field(default=4 * 3600.0, gt=0)
    max_fps: float = Field(default=240.0, gt=0)
    max_wall_s: float = Field(default=4 * 3600.0, gt=0)
    max_corrupt_share: float = Field(default=0.1, ge=0, le=1)


class Dataset(Block):
    """One block of datasets.yaml.

    Attributes:
        name: key of the block.
        root: folder of the raw files; `${VAR}` and `${VAR:-default}` are filled from the environment.
        layouts: tried in order; the first pattern that matches a path takes it.
        shard_minutes: video time per shard; never derived from the number of workers.
        features: extractor -> parameters; `landmarks` must be among them.
        thresholds: score column -> bounds.
        training: when a snapshot is worth a training run. Not part of the data: changing it publishes nothing.
        resources: step ('cut' or an extractor) -> what a worker of a Dask cluster must offer, such as {GPU: 1}.
    """

    name: str
    root: Path
    layouts: dict[str, Layout] = Field(min_length=1)
    shard_minutes: float = Field(default=10.0, gt=0)
    crop: CropRule = CropRule()
    face: FaceRule = FaceRule()
    limits: LimitRule = LimitRule()
    features: dict[str, Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]]
    thresholds: dict[str, Threshold] = {}
    split: SplitRule = SplitRule()
    training: TrainingRule = TrainingRule()
    resources: dict[str, dict[str, Annotated[float, Field(gt=0)]]] = {}

    def data_settings(self) -> dict[str, Any]:
        """The settings that say what the data are, as JSON: neither where the files lie nor how the work is done."""
        return self.model_dump(mode="json", exclude={"root", "training", "resources"})

    @model_validator(mode="after")
    def _has_landmarks(self) -> "Dataset":
        if "landmarks" not in self.features:
            raise ValueError("features must include landmarks: no clip may be without a landmark row or a mask")
        return self


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression with named groups; a bare group takes anything but a slash.

    Raises:
        ValueError: it is no valid pattern; says what is wrong.
    """
    parts = _GROUP.split(pattern)
    out = [re.escape(parts[0])]
    for name, regex, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        out.append(f"(?P<{name}>{regex or '[^/]+'})" + re.escape(literal))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no valid pattern: {error}") from None


def template_fields(template: str) -> set[str]:
    """Names that a template such as `{subject}#{take}` fills in."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def load_catalog(path: Path | None = None) -> dict[str, Dataset]:
    """Every dataset by name.

    Args:
        path: the file; by default ./datasets.yaml, else the one beside the package.

    Raises:
        ConfigError: no file, no YAML, an unknown key (named, with the nearest valid one), a value out of range.
    """
    file = path or _default_file()
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    _require_bounded(raw, file)
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected a mapping of dataset names to blocks")
    return {str(name): _dataset(file, str(name), block) for name, block in raw.items()}


def load_dataset(name: str, path: Path | None = None) -> Dataset:
    """The block called `name`.

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    catalog = load_catalog(path)
    if name not in catalog:
        hint = nearest(name, list(catalog))
        raise ConfigError(f"datasets.yaml has no dataset {name!r}{hint}; it has {', '.join(sorted(catalog))}")
    return catalog[name]


def _default_file() -> Path:
    here = Path(CATALOG_FILE)
    beside = Path(__file__).resolve().parents[1] / CATALOG_FILE
    for candidate in (here, beside):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"no {CATALOG_FILE} in {Path.cwd()}; run talkset in the project's folder or pass --catalog")


def _require_bounded(raw: Any, file: Path) -> None:
    """Refuses what grows without bound when its aliases are followed."""
    todo, count = [raw], 0
    while todo:
        value = todo.pop()
        count += 1
        if count > _MAX_VALUES:
            raise ConfigError(f"{file}: more than {_MAX_VALUES} values; does an alias (*name) stand in its own anchor?")
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, (list, set)):
            todo += value


def _dataset(file: Path, name: str, block: Any) -> Dataset:
    if not isinstance(block, dict):
        raise ConfigError(f"{file}: dataset {name!r} must be a mapping, it is {type(block).__name__}")
    try:
        return Dataset.model_validate({**_fill(block, file, name), "name": name})
    except ValidationError as error:
        raise ConfigError(f"{file}: {_explain(name, error)}") from None


def _explain(name: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join([name, *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        return f"unknown key {where!r}{nearest(key, _valid_keys(first['loc'][:-1]))}"
    return f"{where}: {first['msg']} (got {repr(first['input'])[:200]})"


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Dataset
    for part in location:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        field = model.model_fields.get(str(part))
        model = _model_in(field.annotation) if field else model
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The block class inside `X`, `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return annotation
    found = [_model_in(inner) for inner in getattr(annotation, "__args__", ())]
    return next((model for model in found if model is not None), None)


def nearest(word: str, choices: list[str]) -> str:
    """Continuation of an error message: the choice most like `word`, or all of them."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else (f"; valid keys: {', '.join(choices)}" if choices else "")


def _fill(value: Any, file: Path, where: str) -> Any:
    """`value` with `${VAR}` and `${VAR:-default}` replaced in every string; numbers no setting can have are refused."""
    if isinstance(value, dict):
        return {key: _fill(inner, file, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, file, where) for inner in value]
    if isinstance(value, (int, float)) and not -_MAX_NUMBER < value < _MAX_NUMBER:
        raise ConfigError(f"{file}: {where}: a finite number below {_MAX_NUMBER} is expected")
    return _VARIABLE.sub(_variable, value) if isinstance(value, str) else value


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _variable(match: re.Match[str]) -> str:
    # An unset variable without a default stays as it is: only the preflight of the dataset that needs it complains.
    return os.environ.get(match[1]) or (match[2] if match[2] is not None else match[0])
