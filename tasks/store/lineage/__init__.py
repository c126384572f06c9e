"""Lineage: from a source to the models it went into, and from a model back to its sources. Reads only."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from tasks.store.lineage.history import History, read_history
from tasks.store.lineage.of_run import RunLineage, match_runs, run_lineage
from tasks.store.lineage.of_snapshot import SnapshotLineage, match_snapshots, snapshot_lineage
from tasks.store.lineage.of_source import SourceAnswer, match_stored_sources, source_lineage
from tasks.store.names import Match, NamedRun, NamedSource, Vocabulary, listing, readings, source_names, the_one

Lineage = SourceAnswer | SnapshotLineage | RunLineage


def lineage(store: Path, name: str) -> Lineage:
    """The origin of a source, snapshot, run or checkpoint, and everything that was made of it.

    Args:
        store: The folder of the store.
        name: A SOURCE or one of its clips (see tasks.store.names), a SNAPSHOT ('latest', number, digits of its id),
            a RUN (id or its beginning), a CHECKPOINT (`<run id>/<file>`, digits of its hash), or any file that has the
            content of a source or checkpoint. Digits: the first 6 or more.

    Raises:
        ConfigError: nothing is called so, or several things are; they are named.
        StoreCorrupt: a snapshot, table or record is damaged.
    """
    history = read_history(store)
    texts = readings(name, history.snapshots.values())
    found = next((found for text in texts if (found := _matches(history, text))), [])
    meant = the_one(found, name, vocabulary(history, "source, clip, snapshot, run or checkpoint", history.runs))
    if isinstance(meant, int):
        return snapshot_lineage(history, name, meant)
    if isinstance(meant, NamedRun):
        return run_lineage(history, name, meant.run, meant.checkpoint)
    sources = tuple(source_lineage(history, content) for content in meant.contents)
    return SourceAnswer(name, "source", sources, history.gone_snapshots())


def _matches(history: History, name: str) -> list[Match[int | NamedRun | NamedSource]]:
    if not name:
        return []
    return [*match_snapshots(history, name), *match_runs(history, name), *match_stored_sources(history, name)]


def vocabulary(history: History, kinds: str, others: Iterable[str] = ()) -> Vocabulary:
    """The message about a name that means nothing in a store.

    Args:
        history: The history of the store.
        kinds: The kinds of things that were looked for.
        others: Names besides those of sources and clips.
    """
    numbers = [str(number) for number in history.snapshots]
    snapshots = f"there are snapshots {listing(numbers)}" if numbers else "there is no snapshot"
    runs = f"runs {listing(list(history.runs))}" if history.runs else "no runs"
    return Vocabulary(
        where=str(history.store),
        kinds=kinds,
        names=chain(others, source_names(history.snapshots.values())),
        advice=f"{snapshots} and {runs}; sources are called by path below the root, file name, or digits of their id",
    )
