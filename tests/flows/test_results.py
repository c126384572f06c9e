"""S-01: what Prefect leaves on the disk of a run that fails is JSON; nothing there is ever unpickled."""

import json
from collections.abc import Callable

from tests.flows.lab import Lab

MakeLab = Callable[..., Lab]


def test_failed_flow_and_tasks_leave_no_pickle(make_lab: MakeLab) -> None:
    """Every extractor fails, then the flow where it would publish."""
    lab = make_lab(features={"landmarks": {}})
    for path in sorted(lab.root.rglob("*.mp4"))[1:]:
        path.unlink()
    home = lab.folder / "prefect"
    env = {"PREFECT_HOME": str(home), "TALKSET_TEST_BREAK": "extract,publish"}
    ended = lab.refresh("--workers", "1", env=env)
    assert (ended.code, ended.err.strip()) == (1, "talkset: broken on purpose")
    results = [path for path in (home / "storage").rglob("*") if path.is_file()]
    assert results, "the failed flow is known to leave its error"
    for path in results:
        assert isinstance(json.loads(path.read_bytes()), dict), path
    files = [path for folder in (home, lab.store) for path in folder.rglob("*") if path.is_file()]
    assert [str(path) for path in files if _is_pickle(path.read_bytes())] == []


def _is_pickle(data: bytes) -> bool:
    """As it is, or in base64 as Prefect writes it."""
    return data.startswith((b"\x80", b"gA"))
