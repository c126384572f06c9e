"""Small records that steps hand to each other; plain values only, so that they travel as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from storage.errors import Reason
from storage.keys import canonical_json, sha256_hex
from storage.objects import ObjectRef


class State(StrEnum):
    """The final state of a source."""

    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    DUPLICATE = "duplicate_of"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a source to use.

    Attributes:
        start_s, end_s: container time in seconds.
        box: (left, top, right, bottom) of the speaker's region in units of the image's height, or None.
    """

    start_s: float
    end_s: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """The part of a source that its shard keeps, also after the file is gone: content id, layout and subject label."""

    source_id: str
    layout: str
    subject: str


@dataclass(frozen=True, slots=True)
class Source:
    """One line of the inventory: a video file, its audio, and what its path says.

    Attributes:
        path: relative to the dataset root; bytes that are no UTF-8 are escaped as \\xNN, control characters too.
        path_hex: the exact bytes of the relative path, hexadecimal.
        layout: name of the layout in datasets.yaml that matched ('' when none did).
        name: base name of its clips, from the layout.
        subject: identity label; splits never separate one subject.
        labels: the other named groups of the pattern.
        size_bytes, sha256: of the video file; sha256 is '' when the file could not be read.
        seconds: length the container's header claims, 0 when unknown; only used to size shards.
        audio_path_hex, audio_sha256: of the audio file beside the video, '' when the audio is embedded.
        spans: stretches to use; empty means all of it.
        reason, detail: set when the path alone decides (BAD_NAME, UNSAFE_PATH, EMPTY, NO_AUDIO).
        error: set when the file could not be read (permission, I/O): failed, to be retried.
    """

    path: str
    path_hex: str
    layout: str
    name: str
    subject: str
    labels: dict[str, str]
    size_bytes: int = 0
    sha256: str = ""
    seconds: float = 0.0
    audio_path_hex: str = ""
    audio_sha256: str = ""
    spans: tuple[Span, ...] = ()
    reason: Reason | None = None
    detail: str = ""
    error: str = ""

    @property
    def source_id(self) -> str:
        """20 hex digits of what the source contains: video bytes, audio bytes, spans; never its path."""
        spans = [[span.start_s, span.end_s, list(span.box) if span.box else None] for span in self.spans]
        return sha256_hex(canonical_json([self.sha256, self.audio_sha256, spans]))[:20]

    def member(self) -> Member:
        """The part that its shard keeps."""
        return Member(self.source_id, self.layout, self.subject)

    @property
    def is_usable(self) -> bool:
        """True when the inventory found nothing that keeps it from being cut."""
        return self.reason is None and not self.error


@dataclass(frozen=True, slots=True)
class Shard:
    """A list of whole sources: the unit of fan-out, retry, storage and caching.

    Attributes:
        shard_id: 12 hex digits of its source ids; equal lists have equal ids everywhere.
        source_ids: sorted by path when the shard was formed.
        minutes: estimated video time.
    """

    shard_id: str
    source_ids: tuple[str, ...]
    minutes: float = 0.0

    @staticmethod
    def of(source_ids: tuple[str, ...], minutes: float = 0.0) -> "Shard":
        """The shard of these sources."""
        return Shard(sha256_hex(canonical_json(list(source_ids)))[:12], source_ids, minutes)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of one (step, shard) task: a reference to the committed object, never data.

    Attributes:
        step: 'cut' or the extractor's name.
        shard_id: which shard.
        source_ids: those the object really covers.
        key, digest, num_bytes: of the object; key is '' when nothing could be committed.
        num_clips: clips in the object.
        seconds: wall time of the step, 0 when the object was there already.
        is_new: False when the object was there already.
        failed: source id -> error text, for sources that must be tried again.
    """

    step: str
    shard_id: str
    source_ids: tuple[str, ...]
    key: str
    digest: str
    num_bytes: int
    num_clips: int
    seconds: float
    is_new: bool
    failed: dict[str, str] = field(default_factory=dict)

    def ref(self) -> ObjectRef:
        """Reference of the committed object."""
        return ObjectRef(self.step, self.key, self.digest, self.num_bytes)


@dataclass(frozen=True, slots=True)
class ShardResults:
    """One shard as a refresh hands it to publishing: its sources and the objects made of them.

    Attributes:
        shard: the shard as it stands in the snapshot, without failed sources.
        members: its sources, in its order.
        cut: the committed cut.
        features: extractor -> committed object.
    """

    shard: Shard
    members: tuple[Member, ...]
    cut: StepResult
    features: Mapping[str, StepResult]


def as_json(value: Any) -> Any:
    """A record, also of records, as the JSON document that commands print: mappings, lists and plain values.

    The underscore of a field that is named like a keyword of Python (`from_`) is dropped. A field that defaults to
    None and has no value is left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        given = ((part, getattr(value, part.name)) for part in fields(value))
        return {
            part.name.rstrip("_"): as_json(inner)
            for part, inner in given
            if inner is not None or part.default is not None
        }
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value
