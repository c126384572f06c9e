"""CPU seconds of the commands that people wait for: whole processes, median of several.

python -m benchmarks.commands
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import Row, finish

REPEATS = 7
HELP_S, STATUS_S = 0.5, 0.7


def main() -> None:
    """One row per command."""
    from storage.snapshot import bind_store

    with tempfile.TemporaryDirectory() as folder:
        bind_store(Path(folder), "empty")
        rows = [
            _row("`talkset --help`, CPU", HELP_S, "--help"),
            _row("`talkset status`, CPU", STATUS_S, "status", "--store", folder),
        ]
    finish(rows)


def _row(what: str, bar_s: float, *args: str) -> Row:
    seconds = sorted(_cpu_s(*args) for _ in range(REPEATS))
    median = statistics.median(seconds)
    notes = f"median of {REPEATS} processes, {seconds[0]:.2f} to {seconds[-1]:.2f} s"
    return Row(what, f"{median:.2f} s", f"<= {bar_s} s", median <= bar_s, notes)


def _cpu_s(*args: str) -> float:
    """User and system seconds of one process, from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "flows", *args], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
