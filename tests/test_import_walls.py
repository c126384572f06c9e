"""What planning, publishing and the commands on a store load: no codec and no numerical library.

import-linter holds the same wall on paper; it sees neither extractors and face backends, which are discovered, nor whether
an import inside a function is ever reached.
"""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

HEAVY = {"av", "numba", "soxr", "cv2", "librosa", "torch", "dlib", "mediapipe", "prefect", "dask", "matplotlib"}

_REPORT = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"


def loaded(code: str) -> set[str]:
    """Top-level modules that are loaded after `code`, in a process of its own."""
    command = [sys.executable, "-c", f"{code}; {_REPORT}"]
    return set(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import tasks.plan, tasks.inventory, tasks.shard_work, tasks.step_keys, tasks.publish",
        "import tasks.store.verify, tasks.store.takedown, tasks.store.status, tasks.store.explain",
        "import tasks.store.diff, tasks.store.gc, tasks.store.lineage",
        "from tasks import features; features.discover()",
        "from tasks.faces.backend import *; [backend_facts(n) for n in ('dlib', 'face_alignment', 'mediapipe')]",
    ],
)
def test_light_modules_load_no_heavy_library(code: str) -> None:
    assert loaded(code) & HEAVY == set()


def test_the_report_of_loaded_modules_sees_heavy_ones() -> None:
    assert "cv2" in loaded("import cv2")
