"""Names: what a source, clip, snapshot, run or checkpoint may be called, one rule for explain, lineage and takedown.

A source is called by its path inside the dataset's root or the end of that path (the base name is the shortest), the
full path of its file, the base name of its clips, the name or key of one clip, or the first digits (6 or more) of its
id or SHA-256. A whole name counts before a part of another thing's name.
"""

import difflib
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import ConfigError
from storage.keys import sha256_file, sha256_hex
from storage.records import State
from storage.runs import Checkpoint, RunRecord
from storage.snapshot import CLIPS_TABLE, SOURCES_TABLE, Snapshot
from storage.tables import read_table
from tasks.inventory import escape_path

# All empty files have one hash, but nothing in common.
_EMPTY_SHA256 = sha256_hex(b"")
_NUM_LISTED = 10
# Names that share most letter triples with a misspelt one, among which the nearest are looked for.
_NUM_SHORTLISTED = 200
_MAX_COMPARED_LENGTH = 300

_SOURCE_COLUMNS = (
    "path", "path_hex", "name", "source_id", "subject", "sha256", "audio_sha256", "state", "reason", "detail",
)  # fmt: skip

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Match(Generic[T_co]):
    """One thing that a name can mean.

    Attributes:
        meant: The thing itself.
        is_whole: True when its whole name was given, not a part of it.
        label: Its description in a message.
    """

    meant: T_co
    is_whole: bool
    label: str


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a source, independent of its name; exactly one of the three is set.

    Attributes:
        sha256: The hash of its video file.
        source_id: The id of a source that only shards still list.
        path_hex: The path of a file that is empty or could not be read: there is no content to go by.
    """

    sha256: str = ""
    source_id: str = ""
    path_hex: str = ""

    @staticmethod
    def of(row: Mapping[str, str]) -> "Content":
        """The content of a row of sources.parquet."""
        has_content = row["sha256"] not in ("", _EMPTY_SHA256)
        return Content(sha256=row["sha256"]) if has_content else Content(path_hex=row["path_hex"])


@dataclass(frozen=True, slots=True)
class NamedSource:
    """The meaning of a source's name: one path, or one content.

    Attributes:
        contents: Everything that the path has held; one entry where a content is meant.
        paths: The paths inside the root by which it was found.
        clips: The keys of the clips that were named; empty when the whole source was.
    """

    contents: tuple[Content, ...]
    paths: frozenset[str] = frozenset()
    clips: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NamedRun:
    """The meaning of a run's name: the run, or one of its files.

    Attributes:
        run: The record of the run.
        checkpoint: The file that was named, None when the run was.
    """

    run: RunRecord
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The parts of the message about a name that means nothing.

    Attributes:
        where: The store or snapshot that was searched.
        kinds: The kinds of things that were looked for, such as 'source or clip'.
        names: Every name there is, for "did you mean".
        advice: Other causes, or the names that exist.
    """

    where: str
    kinds: str
    names: Iterable[str]
    advice: str


def the_one(found: Sequence[Match[T_co]], name: str, vocabulary: Vocabulary) -> T_co:
    """The only thing that `name` means; whole names count before parts.

    Raises:
        ConfigError: it means nothing, and the nearest names are listed; or several things, and they are.
    """
    chosen = [match for match in found if match.is_whole] or found
    if len(chosen) == 1:
        return chosen[0].meant
    if chosen:
        raise ConfigError(
            f"{vocabulary.where}: {name!r} can mean {listing([match.label for match in chosen], '; ')}; "
            "give a whole path, more digits, or another name of it"
        )
    near = nearest(name, vocabulary.names)
    rest = f"did you mean {' or '.join(map(repr, near))}? ({vocabulary.advice})" if near else vocabulary.advice
    raise ConfigError(f"{vocabulary.where}: no {vocabulary.kinds} is called {name!r}; {rest}")


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that are spelt most like `name`, nearest first."""
    wanted = _triples(name)
    shortlist = heapq.nlargest(_NUM_SHORTLISTED, sorted(set(names)), key=lambda other: len(wanted & _triples(other)))
    return difflib.get_close_matches(name[:_MAX_COMPARED_LENGTH], shortlist, n=3)


def _triples(text: str) -> set[str]:
    return {text[at : at + 3] for at in range(max(1, len(text) - 2))}


def listing(names: Sequence[str], between: str = ", ") -> str:
    """The first ten of `names`, and how many more there are."""
    rest = len(names) - _NUM_LISTED
    return between.join(names[:_NUM_LISTED]) + (f" and {rest} more" if rest > 0 else "")


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


def readings(name: str, snapshots: Iterable[Snapshot]) -> Iterator[str]:
    """The readings of a name, likeliest first: itself, the SHA-256 of the file there, a known path at its end."""
    yield name
    if digest := digest_of_file(name):
        yield digest
    if path := path_in_root(name, snapshots):
        yield path


def path_in_root(name: str, snapshots: Iterable[Snapshot]) -> str:
    """The longest end of a full path that is the path of a source inside the dataset's root, '' when there is none."""
    known = {row["path"] for snapshot in snapshots for row in source_rows(snapshot)}
    parts = escape_path(name).split("/")
    return next((end for at in range(1, len(parts)) if (end := "/".join(parts[at:])) in known), "")


# ---- sources and clips


def fits(name: str, path: str, ids: Iterable[str], others: Iterable[str] = ()) -> bool | None:
    """Compares a name with the names of one source.

    Args:
        name: The name that was given.
        path: The path of the source inside the root.
        ids: Its ids, of which the first digits are enough.
        others: Names that count as a whole only.

    Returns:
        True when it is a whole name of the source, False when it is a part of one, None when it is neither.
    """
    ids = tuple(ids)
    texts = [text for text in _spellings(name) if text]
    if any(text in (path, *ids, *others) for text in texts):
        return True
    if any(path.endswith(f"/{text}") for text in texts):
        return False
    return False if is_digits(name) and any(one.startswith(name) for one in ids) else None


def _spellings(name: str) -> list[str]:
    """People paste what a listing shows (escaped) or what their shell shows."""
    return [escape_path(name), *([name] if name.isprintable() else [])]


def match_sources(snapshots: Iterable[Snapshot], name: str) -> list[Match[NamedSource]]:
    """The sources of these snapshots that `name` can mean: by a name of the source or of one of its clips."""
    whole: dict[Content, set[str]] = {}
    parts: dict[Content, set[str]] = {}
    of_clips: dict[Content, set[str]] = {}
    clips: set[str] = set()
    for snapshot in snapshots:
        rows = source_rows(snapshot)
        for row in rows:
            is_whole = fits(name, row["path"], (row["source_id"], row["sha256"]), (row["name"],))
            if is_whole is not None:
                (whole if is_whole else parts).setdefault(Content.of(row), set()).add(row["path"])
        for clip, row in _named_clips(snapshot, rows, name) if not whole else ():
            of_clips.setdefault(Content.of(row), set()).add(row["path"])
            clips.add(clip)
    found = _grouped(whole, True) if whole else _grouped(of_clips, True, frozenset(clips))
    return [*found, *_grouped(parts, False)]


def source_rows(snapshot: Snapshot) -> list[dict[str, str]]:
    """The columns of a snapshot's sources.parquet that names and lineage need, one mapping per source."""
    path = snapshot.objects.path(snapshot.body.tables.key)
    return read_table(path / SOURCES_TABLE, _SOURCE_COLUMNS).to_pylist()


def source_names(snapshots: Iterable[Snapshot]) -> Iterator[str]:
    """Every path, base name and clip name of these snapshots."""
    for snapshot in snapshots:
        for row in source_rows(snapshot):
            yield from (row["path"], row["path"].rpartition("/")[2], row["name"])
        path = snapshot.objects.path(snapshot.body.tables.key)
        yield from read_table(path / CLIPS_TABLE, ["name"])["name"].to_pylist()


def _named_clips(
    snapshot: Snapshot, rows: Sequence[Mapping[str, str]], name: str
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(key, row of the source) of the clips, kept or not, that have this name or key."""
    table = read_table(snapshot.objects.path(snapshot.body.tables.key) / CLIPS_TABLE, ["name", "clip", "source_id"])
    texts = pa.array(_spellings(name), pa.string())
    named = table.filter(pc.field("name").isin(texts) | pc.field("clip").isin(texts))
    for clip in named.to_pylist():
        for row in rows:
            if row["source_id"] == clip["source_id"] and row["state"] != State.DUPLICATE.value:
                yield clip["clip"], row


def _grouped(
    found: Mapping[Content, set[str]], is_whole: bool, clips: frozenset[str] = frozenset()
) -> list[Match[NamedSource]]:
    """One match for one path, whatever it held; else one for each content."""
    all_paths = sorted(set().union(*found.values()))
    if len(all_paths) == 1:
        return [Match(NamedSource(tuple(found), frozenset(all_paths), clips), is_whole, f"source {all_paths[0]}")]
    matches = []
    for content, paths in found.items():
        digits = f" (sha256 {content.sha256[:12]})" if content.sha256 else ""
        label = f"source {' = '.join(sorted(paths))}{digits}"
        matches.append(Match(NamedSource((content,), frozenset(paths), clips), is_whole, label))
    return matches
