"""Whether tests that need the real clips are skipped or fail where the clips are absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TEST = "def test_needs_clips(media):\n    pass\n"


@pytest.mark.parametrize(
    ("variables", "outcome"),
    [
        ({}, "1 skipped"),
        ({"CI": "true", "TALKSET_MEDIA": ""}, "1 skipped"),
        ({"CI": "true"}, "1 error"),
        ({"TALKSET_MEDIA": "nowhere"}, "1 error"),
    ],
)
def test_absent_clips_fail_where_they_are_said_to_be(variables: dict[str, str], outcome: str, tmp_path: Path) -> None:
    """A checkout without clips beside it: only the test's own folder, with this project's conftest.py."""
    tests = tmp_path / "checkout" / "tests"
    tests.mkdir(parents=True)
    (tests / "conftest.py").write_bytes((REPOSITORY / "tests" / "conftest.py").read_bytes())
    (tests / "test_one.py").write_text(TEST)
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "TALKSET_MEDIA", "PYTEST_ADDOPTS")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    ran = subprocess.run(command, cwd=tests.parent, env=env | variables, capture_output=True, text=True)
    assert outcome in ran.stdout, ran.stdout + ran.stderr
