"""Accounts of a snapshot: where every source and every expected clip ended, whether the sums close, and the issues."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage.snapshot import Snapshot
from storage.timelaw import FPS

NUM_ISSUES_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an account.

    Attributes:
        label: The state or the reason code.
        count: The number of sources or clips.
        share: The share of the account's total, 0..1.
    """

    label: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Accounts:
    """All accounts of a snapshot.

    Attributes:
        sources: Sources by state.
        rejected: Rejected sources by reason.
        clips: Expected clips, kept and dropped.
        dropped: Dropped clips by reason.
        num_stored: The number of clips whose frames and features are stored, kept or not.
        keep_rate: The kept share of the expected clips; NaN when none was expected.
        minutes_kept, mean_s: The length of all kept clips, and the mean length of one.
        sums: (statement, True when it holds) for each sum, recomputed from the tables.
    """

    sources: tuple[Line, ...]
    rejected: tuple[Line, ...]
    clips: tuple[Line, ...]
    dropped: tuple[Line, ...]
    num_stored: int
    keep_rate: float
    minutes_kept: float
    mean_s: float
    sums: tuple[tuple[str, bool], ...]


def accounts_of(snapshot: Snapshot) -> Accounts:
    """The accounts as published, checked against the two tables."""
    counts = snapshot.body.counts
    sources, clips = counts["sources"], counts["clips"]
    states = {state: count for state, count in sources.items() if state != "total"}
    names = {state.removesuffix("_of"): count for state, count in states.items()}
    kept_s = counts["frames_kept"] / FPS
    return Accounts(
        sources=_lines(names, sources["total"]),
        rejected=_lines(counts["rejected"], sources["total"]),
        clips=_lines({"kept": clips["kept"], "dropped": clips["dropped"]}, clips["expected"]),
        dropped=_lines(counts["dropped"], clips["expected"]),
        num_stored=int(np.sum(snapshot.clip_table["row"].to_numpy() >= 0)),
        keep_rate=clips["kept"] / clips["expected"] if clips["expected"] else float("nan"),
        minutes_kept=kept_s / 60,
        mean_s=kept_s / clips["kept"] if clips["kept"] else 0.0,
        sums=_sums(snapshot, states),
    )


def _lines(counts: Mapping[str, int], total: int) -> tuple[Line, ...]:
    return tuple(Line(label, count, count / total if total else 0.0) for label, count in counts.items())


def _sums(snapshot: Snapshot, states: Mapping[str, int]) -> tuple[tuple[str, bool], ...]:
    counts = snapshot.body.counts
    total, clips = counts["sources"]["total"], counts["clips"]
    parts = " + ".join(f"{count} {label.removesuffix('_of')}" for label, count in states.items())
    num_kept = int(np.sum(snapshot.clip_table["is_kept"].to_numpy()))
    return (
        (f"{parts} = {total} sources", sum(states.values()) == total == snapshot.source_table.num_rows),
        (
            f"{clips['kept']} kept + {clips['dropped']} dropped = {clips['expected']} expected clips",
            clips["kept"] + clips["dropped"] == clips["expected"] == snapshot.clip_table.num_rows,
        ),
        (
            "every rejected source and every dropped clip has one reason",
            sum(counts["rejected"].values()) == states["rejected"]
            and sum(counts["dropped"].values()) == clips["dropped"],
        ),
        ("the clip table keeps as many clips as the accounts say", num_kept == clips["kept"]),
    )


@dataclass(frozen=True, slots=True)
class Issues:
    """Sources that ended in one state other than done.

    Attributes:
        total: The number of sources.
        rows: The first `NUM_ISSUES_SHOWN`: path, reason, detail, and `command`, which explains the source.
    """

    total: int
    rows: list[dict[str, Any]]


def issues_of(snapshot: Snapshot) -> dict[str, Issues]:
    """'failed', 'rejected' and 'duplicate_of' sources, by path."""
    table = snapshot.source_table.select(["path", "name", "reason", "detail", "state"])
    states = np.array(table["state"].to_pylist(), object)
    issues = {}
    for state in ("failed", "rejected", "duplicate_of"):
        found = table.filter(pa.array(states == state, pa.bool_()))
        rows = found.slice(0, NUM_ISSUES_SHOWN).to_pylist()
        # A misnamed file has no name of its own; a path is always understood.
        issues[state] = Issues(
            found.num_rows, [row | {"command": f"talkset explain {shlex.quote(row['path'])}"} for row in rows]
        )
    return issues
