"""The error tree.

    TalksetError                 something a person has to read; the message names the file, the reason and what to do
    |-- ConfigError              datasets.yaml or an option is wrong (exit code 2)
    |-- PreflightError           the run cannot start: missing root, no permission, too little disk, missing weights
    |-- LockedError              another writer holds the store (exit code 4)
    |-- StoreCorrupt             bytes on disk are not what their manifest says
    |-- OutOfSpace               the disk is full; nothing half-written is visible
    |-- AccountingError          the sum of states does not close; nothing was published
    |-- SnapshotConflict         another process published meanwhile
    |-- ServiceLost              the Dask cluster or the Prefect server went away; what was committed is kept
    |-- WeightsError             a weight file is missing, or its hash is wrong
    |-- TrainingStopped          training cannot go on; it resumes from its last checkpoint (see engine.errors)
    `-- Rejected                 a property of the input: deterministic, remembered (reason code and detail)

Everything else raised while a source is worked on is *failed*: ours or the machine's, retried by the next refresh.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

# Folders, network addresses, and long hexadecimal ids (of tasks, of memory).
_ELSEWHERE = re.compile(r"(?<![\w.])/(?:[^\s/:'\",)]+/)+|\b\w+://[^\s'\",)]+|\b(?:0x)?[0-9a-f]{8,}(?:-[0-9a-f]{4,})*\b")


class Reason(StrEnum):
    """Why a source is rejected or an expected clip is dropped; see REASONS. Values are stored; never rename one."""

    NOT_MEDIA = "NOT_MEDIA"
    EMPTY = "EMPTY"
    TRUNCATED = "TRUNCATED"
    CORRUPT_FRAMES = "CORRUPT_FRAMES"
    UNSUPPORTED_CODEC = "UNSUPPORTED_CODEC"
    TOO_LARGE = "TOO_LARGE"
    TOO_SHORT = "TOO_SHORT"
    NO_VIDEO = "NO_VIDEO"
    NO_AUDIO = "NO_AUDIO"
    AV_LENGTH_MISMATCH = "AV_LENGTH_MISMATCH"
    NO_FACE = "NO_FACE"
    MULTI_FACE = "MULTI_FACE"
    FACE_LEFT_FRAME = "FACE_LEFT_FRAME"
    BAD_NAME = "BAD_NAME"
    UNSAFE_PATH = "UNSAFE_PATH"
    TIMEOUT = "TIMEOUT"
    BELOW_THRESHOLD = "BELOW_THRESHOLD"
    TAKEN_DOWN = "TAKEN_DOWN"


@dataclass(frozen=True, slots=True)
class ReasonText:
    """What a reason says to a person.

    Attributes:
        step: the step that gives it: 'inventory', 'cut' or 'publish'; 'inventory, cut' where either can.
        meaning: what was found, one sentence.
        change: the setting of datasets.yaml, or the thing about the file, that has to change, one sentence.
    """

    step: str
    meaning: str
    change: str


REASONS: Mapping[Reason, ReasonText] = MappingProxyType({
    Reason.NOT_MEDIA: ReasonText(
        "cut",
        "The file is no audio or video container of a known kind, whatever its name ends in.",
        "Replace the file by the original video, or move it out of the dataset's root.",
    ),
    Reason.EMPTY: ReasonText(
        "inventory, cut",
        "The file has no bytes.",
        "Copy the file again, or remove it.",
    ),
    Reason.TRUNCATED: ReasonText(
        "cut",
        "The end of the file is missing: its header promises more video than there is, or the index is cut off.",
        "Copy or download the file again.",
    ),
    Reason.CORRUPT_FRAMES: ReasonText(
        "cut",
        "Frames are damaged: more of the source than limits.max_corrupt_share allows, or some in the dropped clip.",
        "Copy the file again, or raise limits.max_corrupt_share to keep the clips without damage.",
    ),
    Reason.UNSUPPORTED_CODEC: ReasonText(
        "cut",
        "No decoder is installed for the video or audio, or the frame size changes within the file.",
        "Convert the file, such as with `ffmpeg -i IN -c:v libx264 -crf 12 -c:a aac OUT.mp4`.",
    ),
    Reason.TOO_LARGE: ReasonText(
        "cut",
        "Frame size, length, frame rate or number of streams is above a limit that protects the machine.",
        "Raise limits.max_pixels, limits.max_seconds or limits.max_fps, or convert the file.",
    ),
    Reason.TOO_SHORT: ReasonText(
        "cut",
        "The stretch of video with audio is shorter than the shortest clip.",
        "Lower clips.min_tail_s of the layout; the last piece of a longer source is commonly dropped.",
    ),
    Reason.NO_VIDEO: ReasonText(
        "cut",
        "The file has no video stream with frames; a cover image is none.",
        "Replace the file, or narrow the layout's pattern so that it takes no audio files.",
    ),
    Reason.NO_AUDIO: ReasonText(
        "cut",
        "The video has no audio stream, or the audio file that the layout names is not there.",
        "Add the audio file, correct audio.path of the layout, or set audio.required: false.",
    ),
    Reason.AV_LENGTH_MISMATCH: ReasonText(
        "cut",
        "Video and audio start or end further apart than audio.max_gap_s.",
        "Replace the video or its audio file by the matching one, or raise audio.max_gap_s of the layout.",
    ),
    Reason.NO_FACE: ReasonText(
        "cut",
        "No face was tracked in the source, or in the dropped clip.",
        "Try another face.backend or other face.tracking settings; remove the file if nobody is to be seen.",
    ),
    Reason.MULTI_FACE: ReasonText(
        "cut, publish",
        "More faces are visible at once than face.max_faces or the threshold quality_multi_face_share allows.",
        "Raise that setting, or leave it out: then the largest, longest tracked face is kept.",
    ),
    Reason.FACE_LEFT_FRAME: ReasonText(
        "publish",
        "The face is missing in too many frames of the clip.",
        "Lower the threshold quality_valid_share; training masks the frames without a face.",
    ),
    Reason.BAD_NAME: ReasonText(
        "inventory",
        "The path matches no layout's pattern, or the annotation lists do not have the video.",
        "Rename the file, add a layout to the dataset's block, or complete the annotation lists.",
    ),
    Reason.UNSAFE_PATH: ReasonText(
        "inventory, cut",
        "The path is a link out of the root, to a folder or to nothing, or it is no regular file.",
        "Put the file itself under the dataset's root.",
    ),
    Reason.TIMEOUT: ReasonText(
        "cut",
        "Reading took longer than limits.max_wall_s; a refresh counts the source as failed and tries it again.",
        "Raise limits.max_wall_s, or convert the file to a codec that decodes faster.",
    ),
    Reason.BELOW_THRESHOLD: ReasonText(
        "publish",
        "A score of the clip is outside the bounds that the dataset sets for it.",
        "Change the bounds of that score under thresholds; the clip's data are kept and need no recomputation.",
    ),
    Reason.TAKEN_DOWN: ReasonText(
        "inventory",
        "The source was withdrawn with `talkset takedown`.",
        "Only if it was withdrawn by mistake: `talkset takedown NAME --undo`.",
    ),
})  # fmt: skip


def reason_text(code: str) -> ReasonText | None:
    """The texts of a stored reason code; None for '' and for a code that this version does not have."""
    return REASONS[Reason(code)] if code in Reason.__members__ else None


class TalksetError(Exception):
    """Base of every error whose message is meant for a person."""


class ConfigError(TalksetError):
    """datasets.yaml or a command-line option is wrong."""


class PreflightError(TalksetError):
    """The run cannot start; nothing was touched."""


class LockedError(TalksetError):
    """Another process is writing to this store."""


class StoreCorrupt(TalksetError):
    """A stored file differs from its manifest."""


class OutOfSpace(TalksetError):
    """No space is left for the store; what was committed before is intact."""


class AccountingError(TalksetError):
    """Sources or clips are unaccounted for; nothing was published."""


class SnapshotConflict(TalksetError):
    """The parent of the snapshot to publish is no longer the latest one."""


class ServiceLost(TalksetError):
    """The Dask cluster or the Prefect server went away in the middle of a run; what was committed is kept."""


class WeightsError(TalksetError):
    """A weight file is missing or is not the file it should be."""


def error_text(error: BaseException) -> str:
    """An error in one line that may be stored: its kind and cause, without paths, hosts or addresses.

    What is stored enters ids, which must not depend on where the files or the workers are.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {_ELSEWHERE.sub('...', first_line)[:300]}"


class Rejected(TalksetError):
    """The input itself is unusable: same file, same answer.

    Attributes:
        reason: code, stored with the source or clip.
        detail: one line for a person: what was found and what was expected.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["Rejected"], tuple[Reason, str]]:
        return (Rejected, (self.reason, self.detail))
