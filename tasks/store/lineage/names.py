"""Names: what somebody may mean by a word, and the refusal when that is nothing or not one thing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.errors import ConfigError
from storage.keys import sha256_file
from tasks.store.lineage.history import History

_NUM_NAMED = 10


@dataclass(frozen=True, slots=True)
class Match:
    """One thing that a name can mean.

    Attributes:
        kind: what it is.
        is_exact: the whole of its name was given, not a part of it.
        label: for people.
        meant: int, number of a snapshot; (RunRecord, Checkpoint or None); or tuple of the Contents of a source.
    """

    kind: Literal["snapshot", "run", "source"]
    is_exact: bool
    label: str
    meant: Any


def is_digits(name: str) -> bool:
    """Whether `name` can be the first digits of a hash."""
    return re.fullmatch(r"[0-9a-f]{6,64}", name) is not None


def digest_of_file(name: str) -> str:
    """SHA-256 of the file at this path, '' when there is none, it is empty, or it cannot be read."""
    try:
        digest, num_bytes = sha256_file(Path(name)) if Path(name).is_file() else ("", 0)
    except (OSError, ValueError):
        return ""
    return digest if num_bytes else ""


def the_one(found: Sequence[Match], name: str, history: History, kinds: str) -> Match:
    """The only match; whole names count before parts.

    Raises:
        ConfigError: there is none, or several; the message says which there are.
    """
    chosen = [match for match in found if match.is_exact] or found
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise ConfigError(f"{history.store}: no {kinds} is called {name!r}; {_what_there_is(history)}")
    raise ConfigError(
        f"{history.store}: {name!r} can mean {_named([match.label for match in chosen], '; ')}; "
        "give a whole path, more digits, or another name of it"
    )


def _what_there_is(history: History) -> str:
    numbers = [str(number) for number in history.snapshots]
    snapshots = f"there are snapshots {_named(numbers)}" if numbers else "there is no snapshot"
    runs = f"runs {_named(list(history.runs))}" if history.runs else "no runs"
    return f"{snapshots} and {runs}; sources are called by path below the root, file name, or digits of their id"


def _named(names: Sequence[str], between: str = ", ") -> str:
    rest = len(names) - _NUM_NAMED
    return between.join(names[:_NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
