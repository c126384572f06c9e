"""Lineage: from a source to the models it went into, and from a model back to its sources. Reads only."""

from pathlib import Path
from typing import Any

from tasks.store.lineage.history import History, gone_lines, read_history
from tasks.store.lineage.names import Match, digest_of_file, the_one
from tasks.store.lineage.of_run import match_runs, run_lineage
from tasks.store.lineage.of_snapshot import match_snapshots, snapshot_lineage
from tasks.store.lineage.of_source import match_sources, source_lineage


def lineage(store: Path, name: str) -> dict[str, Any]:
    """Where something came from and where it went.

    Args:
        store: folder of the store.
        name: a SOURCE (path below the dataset's root or the end of one, base name, digits of its id or hash), a
            SNAPSHOT ('latest', number, digits of its id), a RUN (id or its beginning), a CHECKPOINT (`<run id>/<file>`,
            digits of its hash), or any file that has the content of a source or checkpoint. Digits: the first 6 or
            more.

    Returns:
        'name', 'kind', 'gone' (snapshots that were collected: what only they knew is not in the answer), and
        kind 'source': 'sources', one `source_lineage` for each content that the path has had;
        kind 'snapshot': see `snapshot_lineage`;
        kind 'run': see `run_lineage`.

    Raises:
        ConfigError: nothing is called so, or several things are; they are named.
        StoreCorrupt: a snapshot, table or record is damaged.
    """
    history = read_history(store)
    found = _matches(history, name) or _matches(history, digest_of_file(name))
    match = the_one(found, name, history, "source, snapshot, run or checkpoint")
    return {"name": name, "kind": match.kind, **_answer(history, match), "gone": gone_lines(history)}


def _matches(history: History, name: str) -> list[Match]:
    if not name:
        return []
    return [*match_snapshots(history, name), *match_runs(history, name), *match_sources(history, name)]


def _answer(history: History, match: Match) -> dict[str, Any]:
    if match.kind == "snapshot":
        return snapshot_lineage(history, match.meant)
    if match.kind == "run":
        return run_lineage(history, *match.meant)
    return {"sources": [source_lineage(history, content) for content in match.meant]}
