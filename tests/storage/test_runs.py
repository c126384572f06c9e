"""Run records: ids are contents, records are replaced whole, what is there is found."""

from pathlib import Path
from typing import Any

import pytest

from storage.errors import StoreCorrupt
from storage.runs import Checkpoint, Continuation, Parent, RunKey, RunRecord, Session, list_runs, load_run, save_run
from storage.store_layout import run_folder

KEY = RunKey(system="toy", stage="gan", stage_version=1, snapshot="a" * 64, config={"lr": 0.1, "train": {"seed": 0}})


def record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "id": KEY.run_id(), "key": KEY, "preset": "smoke", "dataset": "d", "snapshot_number": 3, "ancestors": ("b" * 64,),
        "code_version": "1", "packages_sha256": "c" * 64, "seed": 0,
    }  # fmt: skip
    return RunRecord(**{**fields, **changes})


def checkpoint(kind: Any, step: int) -> Checkpoint:
    return Checkpoint(file=f"checkpoints/{kind}-{step}", kind=kind, step=step, sha256=str(step) * 64, num_bytes=1)


def session(started_at: str) -> Session:
    return Session(started_at=started_at, first_step=0, hardware={"device": "cpu"})


def test_the_id_depends_on_everything_that_determines_the_result() -> None:
    start = Continuation(run="r", snapshot="s", sha256="d" * 64, step=1)
    others = (
        {"system": "t"}, {"stage": "s"}, {"stage_version": 2}, {"snapshot": "b" * 64}, {"config": {"lr": 0.2}},
        {"parents": {"first": Parent(run="r", sha256="d" * 64)}}, {"weights": {"vgg19": "e" * 64}},
        {"continued_from": start},
    )  # fmt: skip
    ids = {KEY.run_id(), *(KEY.model_copy(update=change).run_id() for change in others)}
    assert len(ids) == 1 + len(others)
    assert KEY.run_id().startswith("toy-gan-")
    reordered = KEY.model_copy(update={"config": {"train": {"seed": 0}, "lr": 0.1}})
    assert reordered.run_id() == KEY.run_id()


def test_of_what_a_run_starts_from_only_the_bytes_count() -> None:
    def with_parent(run: str) -> RunKey:
        return KEY.model_copy(update={"parents": {"first": Parent(run=run, sha256="d" * 64)}})

    def continued(run: str) -> RunKey:
        return KEY.model_copy(update={"continued_from": Continuation(run=run, snapshot=run, sha256="d" * 64, step=1)})

    assert with_parent("x").run_id() == with_parent("y").run_id()
    assert continued("x").run_id() == continued("y").run_id() != KEY.run_id()


def test_a_saved_record_comes_back_and_pins_its_snapshot(tmp_path: Path) -> None:
    first = record(sessions=(session("2026-01-01T00:00:00+00:00"),), metrics={"error": 0.1})
    save_run(tmp_path, first)
    assert load_run(tmp_path, first.id) == first
    assert (tmp_path / "pins" / first.id).read_text() == KEY.snapshot
    changed = first.model_copy(update={"state": "done", "checkpoints": (checkpoint("model", 4),)})
    save_run(tmp_path, changed)
    assert load_run(tmp_path, first.id) == changed
    assert sorted(path.name for path in run_folder(tmp_path, first.id).iterdir()) == ["run.json"]
    assert load_run(tmp_path, "toy-gan-nothing") is None


def test_figures_that_json_cannot_hold_are_not_written(tmp_path: Path) -> None:
    save_run(tmp_path, record())
    with pytest.raises(ValueError, match="JSON"):
        save_run(tmp_path, record(metrics={"error": float("nan")}))
    assert load_run(tmp_path, record().id) == record()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    save_run(tmp_path, record())
    path = run_folder(tmp_path, record().id) / "run.json"
    for content in (path.read_text()[:-9], path.read_text().replace('"seed"', '"seeed"'), "[]"):
        path.write_text(content)
        with pytest.raises(StoreCorrupt, match=r"run\.json: not a run record"):
            load_run(tmp_path, record().id)


def test_runs_are_listed_by_the_start_of_their_last_session(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    days = {"x": ("2026-01-01", "2026-01-09"), "y": ("2026-01-05",), "z": ()}
    for name, starts in days.items():
        save_run(tmp_path, record(id=name, sessions=tuple(session(start) for start in starts)))
    assert [run.id for run in list_runs(tmp_path)] == ["z", "y", "x"]


def test_the_model_is_the_newest_one() -> None:
    checkpoints = (checkpoint("model", 1), checkpoint("state", 1), checkpoint("model", 2), checkpoint("state", 2))
    assert record(checkpoints=checkpoints).model() == checkpoint("model", 2)
    with pytest.raises(StoreCorrupt, match="has written no model"):
        record(checkpoints=checkpoints[1:2]).model()
