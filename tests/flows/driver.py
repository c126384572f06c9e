"""The talkset command with the faults that the environment asks for; spawned workers run this top level, too.

TALKSET_TEST_POISON=<file name>    reading this source kills its process outright
TALKSET_TEST_PAUSE=<seconds>       reading any source first takes this long
TALKSET_TEST_MODULES=<file>        the command's modules are written there when it ends
"""

import os
import signal
import sys
import time
from pathlib import Path


def _install() -> None:
    poison, pause_s = os.environ.get("TALKSET_TEST_POISON"), float(os.environ.get("TALKSET_TEST_PAUSE", "0"))
    if not (poison or pause_s):
        return
    from tasks import cut

    read = cut.probe

    def probe(path, *args, **kwargs):
        time.sleep(pause_s)
        if path.name == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, *args, **kwargs)

    cut.probe = probe


_install()

if __name__ == "__main__":
    from flows.cli import main

    try:
        main()
    finally:
        if "TALKSET_TEST_MODULES" in os.environ:
            Path(os.environ["TALKSET_TEST_MODULES"]).write_text("\n".join(sorted(sys.modules)))
