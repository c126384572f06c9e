"""What the quick commands load: help and status must not wait for libraries that only work needs."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.synthetic_store import build_store

HEAVY = {"torch", "numba", "av", "cv2", "prefect", "dask", "distributed", "scipy", "librosa", "pandas", "soxr", "dlib"}
# Runs the command in this very process, then prints the names of all packages that are loaded.
SPY = """
import json, sys
from flows.cli.main import main
sys.argv[0] = "talkset"
try:
    main()
except SystemExit as ended:
    assert not ended.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(*args: str) -> set[str]:
    """Packages that `talkset ARGS` has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", SPY, *args], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_nothing_that_reads_data() -> None:
    assert loaded("--help") & (HEAVY | {"numpy", "pyarrow", "lmdb", "pydantic", "tqdm"}) == set()


def test_help_of_animate_imports_the_options_of_systems_and_no_networks() -> None:
    assert loaded("animate", "--help") & (HEAVY | {"pyarrow", "lmdb", "tqdm"}) == set()


def test_status_imports_what_reads_a_store_and_no_more(tmp_path: Path) -> None:
    build_store(tmp_path, clips_per_subject=1, num_frames=(10,))
    assert loaded("status", "--store", str(tmp_path)) & (HEAVY | {"tqdm"}) == set()
