"""Errors that end a training early.

TalksetError
`-- TrainingStopped      cannot go on; what was saved before is intact, and training resumes from it
    `-- NonFinite        a loss or a gradient is NaN or infinite
Interrupted              a signal ended it; the state was saved
"""

import signal

from storage.errors import TalksetError


class TrainingStopped(TalksetError):
    """Training cannot go on: a process of it died or the processes no longer agree."""


class NonFinite(TrainingStopped):
    """A loss or a gradient is NaN or infinite; no weight was changed by it."""


class Interrupted(BaseException):
    """SIGTERM or SIGINT was received; the state is saved and the run can be resumed.

    Attributes:
        exit_code: of the process: 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
