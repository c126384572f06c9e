"""Signals that end a training take effect between two steps, where the state can be saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)

# A worker that its parent has not ended by then has lost it.
_LAST_RESORT_S = 300


@contextmanager
def noted_signals() -> Iterator[Callable[[], int]]:
    """Inside the block SIGTERM and SIGINT only make the yielded function return their number instead of 0.

    A signal that did not lead to an exception is raised again after the block. A second signal has its usual effect at
    once. Only the main thread receives signals: in any other the function always returns 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    came, before = list[int](), {number: signal.getsignal(number) for number in _NUMBERS}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        _set_handlers(before)

    _set_handlers(dict.fromkeys(_NUMBERS, note))
    try:
        yield lambda: came[0] if came else 0
    finally:
        _set_handlers(before)
    if came:
        signal.raise_signal(came[0])


def leave_to_parent(worker: int) -> None:
    """`worker_init_fn` of data loaders: Ctrl-C and most supervisors signal every process, but the training needs its
    workers to reach the next step, and ends them itself.
    """
    _set_handlers(dict.fromkeys(_NUMBERS, lambda number, frame: signal.alarm(_LAST_RESORT_S)))


def _set_handlers(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
