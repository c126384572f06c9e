"""Groups: clips, minutes and keep rate by split, layout, emotion and subject."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage.snapshot import Snapshot
from storage.timelaw import FPS

NUM_SHOWN = 40
_COLUMNS = {"split": "Split", "emotion": "Emotion", "layout": "Layout", "subject": "Subject"}
_SPLIT_ORDER = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Group:
    """Clips that share a label.

    Attributes:
        label: '' where the clips have none.
        expected, kept: clips.
        minutes: video time of the kept ones.
        subjects: number of different subjects among the kept ones.
    """

    label: str
    expected: int
    kept: int
    minutes: float
    subjects: int

    @property
    def rate(self) -> float:
        """Kept share of the expected clips."""
        return self.kept / self.expected if self.expected else float("nan")


def group_tables(snapshot: Snapshot) -> dict[str, list[Group]]:
    """Title -> groups, largest first (splits and emotions in their own order); beyond 40 they are summed up."""
    table = snapshot.clip_table.select([*_COLUMNS, "is_kept", "num_frames"])
    is_kept = table["is_kept"].to_numpy()
    frames_kept = pa.array(table["num_frames"].to_numpy().astype(np.int64) * is_kept)
    subject_kept = pa.array(np.where(is_kept, table["subject"].to_pylist(), None), pa.string())  # null is not counted
    table = table.append_column("frames_kept", frames_kept).append_column("subject_kept", subject_kept)
    return {title: _groups(table, column) for column, title in _COLUMNS.items()}


def _groups(table: pa.Table, column: str) -> list[Group]:
    sums: list[Any] = [("is_kept", "count"), ("is_kept", "sum"), ("frames_kept", "sum")]
    if column != "subject":
        sums.append(("subject_kept", "count_distinct"))
    rows = table.group_by(column).aggregate(sums).to_pylist()
    groups = [
        Group(
            row[column], row["is_kept_count"], row["is_kept_sum"], row["frames_kept_sum"] / FPS / 60,
            row.get("subject_kept_count_distinct", 1),
        )
        for row in rows
    ]  # fmt: skip
    groups.sort(key=lambda group: _place(column, group))
    shown, others = groups[:NUM_SHOWN], groups[NUM_SHOWN:]
    if not others:
        return shown
    total = Group(
        f"{len(others)} others",
        sum(group.expected for group in others),
        sum(group.kept for group in others),
        sum(group.minutes for group in others),
        sum(group.subjects for group in others),
    )
    return [*shown, total]


def _place(column: str, group: Group) -> tuple[Any, ...]:
    if column == "split":
        return (_SPLIT_ORDER.index(group.label),)
    return (not group.label, group.label) if column == "emotion" else (-group.expected, group.label)
