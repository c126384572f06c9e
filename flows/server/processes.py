"""Child processes that must not outlive this one: servers and workers."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, its output appended to `log`; it ends when this process does."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, preexec_fn=_die_with_parent,
            start_new_session=True,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, grace_s: float = 10.0) -> None:
    """Asks the process to end, and after `grace_s` kills it with all it has started in its session."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _die_with_parent() -> None:
    # A run that is killed outright cannot stop its children: the kernel does (Linux only; elsewhere they are left).
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
