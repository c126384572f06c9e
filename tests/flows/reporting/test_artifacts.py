"""What the UI shows of a refresh: text, tables and images, made without a server."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from flows.pipeline.outcome import outcome
from flows.pipeline.start_training import TrainingStart
from flows.reporting import artifacts
from storage.snapshot import Snapshot
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("store"), with_trouble=True)


def test_summary_has_every_count_reason_change_and_decision(snapshot: Snapshot) -> None:
    answer = replace(
        outcome(snapshot, True, 12),
        skipped_features={"hubert": "no weights"},
        changes={"added": ["a.mp4"], "renamed": ["b.mp4 -> c.mp4"], "removed": []},
        training={"edtalk": TrainingStart("not started", ("24 clips, 1000 are needed", "no GPU here"))},
    )
    text = artifacts.summary_text(snapshot, answer)
    counts = snapshot.body.counts
    expected = [
        *(f"| {state} | {count} |" for state, count in counts["sources"].items() if count and state != "total"),
        *(f"| {reason} | {count} |" for reason, count in (counts["rejected"] | counts["dropped"]).items()),
        *(f"| {split} | {count} |" for split, count in snapshot.body.splits.items()),
        "**sources added** (1): `a.mp4`", "**sources renamed** (1): `b.mp4 -> c.mp4`", "without **hubert**: no weights",
        "**edtalk**: not started; 24 clips, 1000 are needed; no GPU here", "12 steps computed", snapshot.id,
    ]  # fmt: skip
    assert [part for part in expected if part not in text] == []
    assert "sources removed" not in text


def test_every_rejected_and_failed_source_is_in_the_table(snapshot: Snapshot) -> None:
    rows = artifacts.source_issues(snapshot)
    sources = snapshot.source_table.to_pylist()
    assert {row["path"] for row in rows} == {row["path"] for row in sources if row["state"] in ("rejected", "failed")}
    assert [row["state"] for row in rows] == sorted(row["state"] for row in rows)
    assert all(row["reason"] or row["detail"] for row in rows)


@pytest.mark.parametrize(("name", "key"), [("mead", "mead"), ("My_Set.2", "my-set-2"), ("été", "-t-")])
def test_keys_are_what_the_server_takes(name: str, key: str) -> None:
    assert artifacts.key_part(name) == key


def test_progress_moves_to_100_and_never_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[float] = []
    monkeypatch.setattr(artifacts.FlowRunContext, "get", lambda: object())
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda percent, **_: sent.append(percent) or "id")
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda _, percent, **__: sent.append(percent))
    monkeypatch.setattr(artifacts, "_MIN_UPDATE_S", 0)
    bar = artifacts.ProgressArtifact("demo")
    for step, total in (("inventory", 1), ("plan", 1), ("cut", 10), ("extract", 20), ("publish", 1), ("report", 1)):
        for done in range(total + 1):
            bar(step, done, total)
    assert sent == sorted(set(sent))
    assert sent[-1] == 100
    assert len(sent) > 30


def test_a_server_that_refuses_costs_a_line_not_the_run(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **given: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(artifacts.FlowRunContext, "get", lambda: object())
    monkeypatch.setattr(artifacts, "run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(artifacts, "create_markdown_artifact", refuse)
    artifacts.publish_artifacts(snapshot, outcome(snapshot, True, 0))
    assert "publish_artifacts was not stored: gone" in caplog.text


def test_changes_are_those_since_the_parent(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path)
    assert outcome(snapshot, True, 0).changes == {}
    assert outcome(snapshot, False, 0).status == "unchanged"
