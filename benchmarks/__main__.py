"""Every benchmark, one after the other in processes of their own, as one Markdown table: `python -m benchmarks`.

The real clips are needed (TALKSET_MEDIA). Takes about half an hour; close other programs, for wall times are
among it.
"""

import json
import subprocess
import sys

from benchmarks.table import Row, conditions, markdown

_MODULES = ("commands", "pipeline", "workers", "overhead", "scale", "face3d", "edtalk_animate")


def main() -> None:
    """Prints the table; ends with code 1 when a bar is missed or a benchmark broke."""
    began = conditions()
    rows = [row for module in _MODULES for row in _run(module)]
    print(f"{markdown(rows)}\n\nBefore: {began}. After: {conditions()}.")
    sys.exit(any(row.is_met is False for row in rows))


def _run(module: str) -> list[Row]:
    print(f"benchmarks.{module} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return [Row(module, "no figure", "to run", False, f"ended with code {done.returncode}, see above")]
    return _face3d(lines) if module == "face3d" else [Row(**row) for row in json.loads(lines[-1])]


def _face3d(lines: list[str]) -> list[Row]:
    """benchmarks.face3d prints a table of its own; its last line holds the means."""
    _, adam_ms, identity_ms, clip, speedup, _, error_px, _ = (cell.strip() for cell in lines[-1].split("|"))
    notes = (
        f"Adam on the same objective {adam_ms} ms, {speedup}x; identity {identity_ms} ms once per subject; "
        f"RMS px of the fit and of Adam {error_px}"
    )
    return [Row("3DMM fit of 125 frames, ms (per frame)", clip, notes=notes)]


if __name__ == "__main__":
    main()
