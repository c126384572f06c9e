"""One line of a benchmark's result, and how lines become a Markdown table with the conditions they were taken under."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Attributes:
        what: what was measured, on what.
        figure: the value with its unit.
        bar: what it must reach, '' when it is for information.
        is_met: whether it does; None without a bar.
        notes: parts and details.
    """

    what: str
    figure: str
    bar: str = ""
    is_met: bool | None = None
    notes: str = ""


def finish(rows: Sequence[Row]) -> None:
    """Prints the rows of one benchmark: as a table, or as one line of JSON when called with --json."""
    print(json.dumps([asdict(row) for row in rows]) if "--json" in sys.argv else markdown(rows), flush=True)


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    head = ["| what | bar | measured | | notes |", "|---|---|---|---|---|"]
    verdicts = {True: "PASS", False: "FAIL", None: ""}
    return "\n".join(
        [*head, *(f"| {row.what} | {row.bar} | {row.figure} | {verdicts[row.is_met]} | {row.notes} |" for row in rows)]
    )


def conditions() -> str:
    """Processor, number of cores, memory and load average of this machine."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{_processor()}, {os.cpu_count()} cores, {gib:.0f} GiB; load average {load}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "processor unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "processor unknown")
