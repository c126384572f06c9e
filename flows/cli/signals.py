"""SIGINT and SIGTERM: the command unwinds within a given time, and exits with 128 + the number of the signal."""

import os
import signal
import threading
from types import FrameType


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived. Not a KeyboardInterrupt, which typer and prefect handle in ways of their own.

    Attributes:
        code: exit code, 128 + the signal's number.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def raise_on_signals(grace_s: float) -> None:
    """From now on a signal raises Stopped in the main thread, once; a second one ends the process at once.

    Args:
        grace_s: the process ends after this time, whatever has not been stopped by then.
    """

    def unwind(number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_DFL)
        end_within(grace_s, 128 + number)
        raise Stopped(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, unwind)


def end_within(grace_s: float, code: int) -> None:
    """Ends the process in `grace_s` with this exit code, whatever then still runs."""
    last_resort = threading.Timer(grace_s, os._exit, (code,))
    last_resort.daemon = True
    last_resort.start()
