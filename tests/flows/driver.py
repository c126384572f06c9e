"""The talkset command with the faults that the environment asks for; spawned workers run this top level, too.

A worker of a cluster of its own gets them by `--preload tests.flows.driver`.

TALKSET_TEST_POISON=<file name>    reading this source kills its process outright
TALKSET_TEST_HOG=<file name>       reading this source takes 3 GiB of memory
TALKSET_TEST_PAUSE=<seconds>       reading any source first takes this long
TALKSET_TEST_BREAK=<step,step>     'extract' and 'publish' raise an error instead of working
TALKSET_TEST_PLACES=<file>         gets lines "cut began <process>", "extract ended <process>"
TALKSET_TEST_MODULES=<file>        the command's modules are written there when it ends
"""

import os
import signal
import sys
import time
from functools import wraps
from pathlib import Path


def _install() -> None:
    poison, hog, pause_s = (os.environ.get(f"TALKSET_TEST_{name}") for name in ("POISON", "HOG", "PAUSE"))
    if poison or hog or pause_s:
        _disturb_reading(poison, hog, float(pause_s or 0))
    if "TALKSET_TEST_BREAK" in os.environ:
        _break(os.environ["TALKSET_TEST_BREAK"].split(","))
    if "TALKSET_TEST_PLACES" in os.environ:
        _note_places(Path(os.environ["TALKSET_TEST_PLACES"]))


def _disturb_reading(poison, hog, pause_s) -> None:
    from tasks import cut

    read = cut.probe

    def probe(path, *args, **kwargs):
        time.sleep(pause_s)
        if path.name == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == hog:
            _take_memory()
        return read(path, *args, **kwargs)

    cut.probe = probe


def _take_memory() -> None:
    """3 GiB, slowly enough for whoever watches over it; then all is given back."""
    taken = []
    for _ in range(48):
        taken.append(b"x" * (64 << 20))
        time.sleep(0.02)
    time.sleep(5)


def _break(steps) -> None:
    from storage.errors import StoreCorrupt
    from tasks import extract, publish

    def broken(*args, **kwargs):
        raise StoreCorrupt("broken on purpose")

    if "extract" in steps:
        extract.extract_shard = broken
    if "publish" in steps:
        publish.publish_snapshot = broken


def _note_places(file: Path) -> None:
    from tasks import cut, extract

    def note(*words) -> None:
        with file.open("a") as out:
            out.write(" ".join(map(str, words)) + "\n")

    def noted(step, function):
        @wraps(function)
        def call(*args, **kwargs):
            note(step, "began", os.getpid())
            result = function(*args, **kwargs)
            note(step, "ended", os.getpid())
            return result

        return call

    cut.cut_shard = noted("cut", cut.cut_shard)
    extract.extract_shard = noted("extract", extract.extract_shard)


_install()

if __name__ == "__main__":
    from flows.cli.main import main

    try:
        main()
    finally:
        if "TALKSET_TEST_MODULES" in os.environ:
            Path(os.environ["TALKSET_TEST_MODULES"]).write_text("\n".join(sorted(sys.modules)))
