"""Signals are noted, answered once, and never lost."""

import signal
import threading
from collections.abc import Iterator

import pytest

from models.training.engine.errors import Interrupted
from models.training.runs.signals import noted_signals


@pytest.fixture
def before() -> Iterator[list[int]]:
    """What the handlers outside the block received."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in numbers}
    yield received
    for number, handler in handlers.items():
        signal.signal(number, handler)


def obey(*numbers: signal.Signals) -> None:
    """A block that receives signals and answers the first."""
    with noted_signals() as came:
        assert came() == 0
        for number in numbers:
            signal.raise_signal(number)
        assert came() == numbers[0]
        raise Interrupted(came())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_answered_by_an_exception(before: list[int], number: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted, match=number.name) as caught:
        obey(number)
    assert caught.value.exit_code == code
    assert not isinstance(caught.value, Exception)
    assert before == []


def test_a_second_signal_does_what_it_did_before(before: list[int]) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        obey(signal.SIGTERM, signal.SIGINT)
    assert before == [signal.SIGINT]


def test_a_signal_that_nobody_answered_is_sent_again(before: list[int]) -> None:
    with noted_signals():
        signal.raise_signal(signal.SIGTERM)
        assert before == []
    assert before == [signal.SIGTERM]
    with noted_signals():
        pass
    assert before == [signal.SIGTERM]


def test_another_thread_leaves_the_handlers_alone(before: list[int]) -> None:
    seen = []

    def work() -> None:
        with noted_signals() as came:
            seen.append((came(), signal.getsignal(signal.SIGTERM)))

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, handler)]
