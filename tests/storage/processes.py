"""Run a function in a forked child, for tests in which a process may die."""

import os
import signal
import sys
import traceback
from collections.abc import Callable


def start(function: Callable[[], object]) -> int:
    """Fork; the child runs the function and exits 0, or 1 with a traceback. Returns its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        function()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def wait(pid: int) -> int:
    """Exit code of a child, minus the signal if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(function: Callable[[], object]) -> int:
    """Exit code of a function run in a child of its own."""
    return wait(start(function))


def kill(pid: int) -> None:
    """kill -9 and reap."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
