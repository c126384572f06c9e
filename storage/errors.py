"""The error tree.

    TalksetError                 something a person has to read; the message names the file, the reason and what to do
    |-- ConfigError              datasets.yaml or an option is wrong (exit code 2)
    |-- PreflightError           the run cannot start: missing root, no permission, too little disk, missing weights
    |-- LockedError              another writer holds the store (exit code 4)
    |-- StoreCorrupt             bytes on disk are not what their manifest says
    |-- OutOfSpace               the disk is full; nothing half-written is visible
    |-- AccountingError          the sum of states does not close; nothing was published
    |-- SnapshotConflict         somebody else published meanwhile
    |-- ServiceLost              the Dask cluster or the Prefect server went away; what was committed is kept
    |-- WeightsError             a weight file is missing, or its hash is wrong
    |-- TrainingStopped          training cannot go on; it resumes from its last checkpoint (see engine.errors)
    `-- Rejected                 a property of the input: deterministic, remembered (reason code and detail)

Everything else raised while a source is worked on is *failed*: ours or the machine's, retried by the next refresh.
"""

import re
from enum import StrEnum

# Folders, network addresses, and long hexadecimal ids (of tasks, of memory).
_ELSEWHERE = re.compile(r"(?<![\w.])/(?:[^\s/:'\",)]+/)+|\b\w+://[^\s'\",)]+|\b(?:0x)?[0-9a-f]{8,}(?:-[0-9a-f]{4,})*\b")


class Reason(StrEnum):
    """Why a source is rejected or an expected clip is dropped. Values are stored; never rename one."""

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
    DECODER_CRASH = "DECODER_CRASH"
    BELOW_THRESHOLD = "BELOW_THRESHOLD"
    TAKEN_DOWN = "TAKEN_DOWN"


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
