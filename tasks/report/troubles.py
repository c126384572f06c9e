"""Troubles: sources that failed, were rejected or repeat others."""

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage.snapshot import Snapshot

NUM_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Trouble:
    """Sources in one state.

    Attributes:
        total: how many there are.
        rows: the first `NUM_SHOWN`: path, reason, detail, and `command`, which explains the source.
    """

    total: int
    rows: list[dict[str, Any]]


def troubles_of(snapshot: Snapshot) -> dict[str, Trouble]:
    """'failed', 'rejected' and 'duplicate_of' sources, by path."""
    return {state: _trouble(snapshot, state) for state in ("failed", "rejected", "duplicate_of")}


def _trouble(snapshot: Snapshot, state: str) -> Trouble:
    table = snapshot.source_table.select(["path", "name", "reason", "detail", "state"])
    table = table.filter(pa.array(np.array(table["state"].to_pylist(), object) == state))
    rows = table.slice(0, NUM_SHOWN).to_pylist()
    # A misnamed file has no name of its own; a path is always understood.
    return Trouble(table.num_rows, [row | {"command": f"talkset explain {shlex.quote(row['path'])}"} for row in rows])
