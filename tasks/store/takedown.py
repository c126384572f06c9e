"""Takedown: withdraw a source, so that no later snapshot holds it; list what still does, and what was made of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.cut_tables import SOURCES_FILE
from storage.errors import ConfigError, StoreCorrupt
from storage.objects import ObjectStore
from storage.snapshot import latest, store_dataset
from storage.store_layout import report_folder
from storage.tables import read_table
from storage.takedowns import Takedown, add_takedown, load_takedowns, remove_takedown
from tasks.store.lineage import vocabulary
from tasks.store.lineage.history import GoneSnapshot, History, UnknownRun, read_history
from tasks.store.lineage.of_source import (
    SourceRun,
    SourceSnapshot,
    content_of,
    match_stored_sources,
    shards_with,
    source_lineage,
)
from tasks.store.names import Content, digest_of_file, fits, path_in_root, readings, source_rows, the_one


@dataclass(frozen=True, slots=True)
class HoldingSnapshot:
    """A snapshot whose shards still hold a source.

    Attributes:
        number, id: The number and the id of the snapshot.
        shards: The ids of the shards that hold it.
        pinned_by: The runs for which gc keeps the snapshot.
        is_latest: True when no later snapshot is published.
    """

    number: int
    id: str
    shards: tuple[str, ...]
    pinned_by: tuple[str, ...]
    is_latest: bool


@dataclass(frozen=True, slots=True)
class Holds:
    """Everything that still contains frames, audio or features of a source.

    Attributes:
        snapshots: The snapshots whose shards hold it.
        num_objects, num_bytes: The number and the size of the objects of these shards.
        orphans: The keys of cuts that no snapshot needs, and that hold it or cannot be read; gc removes them.
        reports: The report folders, relative to the store, of snapshots that had it; their images may show it.
    """

    snapshots: tuple[HoldingSnapshot, ...]
    num_objects: int
    num_bytes: int
    orphans: tuple[str, ...]
    reports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakedownAnswer:
    """A source that was taken down, and everything that was made of it.

    Attributes:
        takedown: The entry of the list.
        is_new: True when it was not on the list before.
        paths, snapshots, since, until, runs, unknown_runs: See SourceLineage.
        gone: The collected snapshots; what only they recorded is not in the answer.
        holds: Everything that still contains it.
        same_audio: The paths of sources that stay although their audio file has the same bytes as its own.
        next: The next steps, in sentences.
    """

    takedown: Takedown
    is_new: bool
    paths: tuple[str, ...]
    snapshots: tuple[SourceSnapshot, ...]
    since: int | None
    until: int | None
    runs: tuple[SourceRun, ...]
    unknown_runs: tuple[UnknownRun, ...]
    gone: tuple[GoneSnapshot, ...]
    holds: Holds
    same_audio: tuple[str, ...]
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PutBack:
    """A source that was taken off the list.

    Attributes:
        put_back: The entry that was removed.
        next: The next steps, in sentences.
    """

    put_back: Takedown
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListedTakedown:
    """An entry of the list; see storage.takedowns.Takedown.

    Attributes:
        is_in_latest: True when the latest snapshot still holds the source.
    """

    sha256: str
    source_ids: tuple[str, ...]
    path: str
    reason: str
    taken_at: str
    who: str
    is_in_latest: bool


@dataclass(frozen=True, slots=True)
class TakedownList:
    """Every takedown of a store, oldest first."""

    takedowns: tuple[ListedTakedown, ...]


def take_down(store: Path, name: str, reason: str, who: str = "") -> TakedownAnswer:
    """Records that a source is withdrawn. Removes nothing: refresh and gc do, and a person decides about runs.

    Args:
        store: The folder of the store.
        name: The source, see `tasks.store.names`; also a file, or the whole hash of one, that is in no snapshot.
        reason: The reason that the tables of later snapshots give.
        who: The person who asked for it or did it; recorded in the list alone.

    Raises:
        ConfigError: no source is called so, or several are, or there is nothing that it would be recognised by.
        LockedError: another process is writing the list.
    """
    if not _one_line(reason):
        raise ConfigError("a takedown needs a reason: it is what later snapshots say of the source")
    history = read_history(store)
    content = _content(history, name)
    known = source_lineage(history, content)
    entry, is_new = add_takedown(
        store,
        Takedown(
            sha256=content.sha256,
            source_ids=known.source_ids,
            path=known.paths[0] if known.paths else _one_line(name),
            reason=_one_line(reason),
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
            who=_one_line(who),
        ),
    )
    holds = _holds(history, entry.source_ids)
    return TakedownAnswer(
        takedown=entry,
        is_new=is_new,
        paths=known.paths,
        snapshots=known.snapshots,
        since=known.since,
        until=known.until,
        runs=known.runs,
        unknown_runs=known.unknown_runs,
        gone=history.gone_snapshots(),
        holds=holds,
        same_audio=_same_audio(history, content),
        next=_next(history, holds, known.runs, known.unknown_runs),
    )


def put_back(store: Path, name: str) -> PutBack:
    """Takes a source off the list, so that the next refresh uses it again.

    Args:
        store: The folder of the store.
        name: The source, see `tasks.store.names`.

    Raises:
        ConfigError: no entry is called so, or several are; they are named.
    """
    entries = load_takedowns(store).entries
    found = [entry for entry in entries if fits(name, entry.path, (entry.sha256, *entry.source_ids)) is not None]
    if not found:
        history = read_history(store)
        texts = readings(name, history.snapshots.values())
        matches = next((matches for text in texts if (matches := match_stored_sources(history, text))), [])
        contents = {content for match in matches for content in match.meant.contents}
        found = [entry for entry in entries if content_of(entry) in contents]
    if len(found) != 1:
        listed = ", ".join(f"{entry.path} ({(entry.sha256 or entry.source_ids[0])[:12]})" for entry in found or entries)
        raise ConfigError(f"{store}: {len(found)} takedowns are called {name!r}; on the list: {listed or 'none'}")
    remove_takedown(store, found[0])
    return PutBack(found[0], (f"talkset refresh {store_dataset(store)}: uses it again if its file is there",))


def list_takedowns(store: Path) -> TakedownList:
    """The list of a store.

    Raises:
        ConfigError: the folder is no store.
    """
    store_dataset(store)
    takedowns, current = load_takedowns(store), latest(store)
    held = takedowns.held_in(current) if current else []
    return TakedownList(
        tuple(
            ListedTakedown(
                sha256=entry.sha256, source_ids=entry.source_ids, path=entry.path, reason=entry.reason,
                taken_at=entry.taken_at, who=entry.who, is_in_latest=entry in held,
            )
            for entry in takedowns.entries
        )
    )  # fmt: skip


# ---- what is meant


def _one_line(text: str) -> str:
    """Text that can be stored and listed: one line, valid Unicode."""
    return " ".join(text.encode(errors="replace").decode().split())


def _content(history: History, name: str) -> Content:
    """The one content that `name` means.

    Raises:
        ConfigError: see `take_down`.
    """
    digest = digest_of_file(name)
    inside = path_in_root(name, history.snapshots.values())
    found = match_stored_sources(history, name) or match_stored_sources(history, digest)
    unseen = digest or (name if len(name) == 64 and set(name) <= set("0123456789abcdef") else "")
    if not found and digest and inside:
        raise ConfigError(
            f"{name!r} is not the file that snapshots have of {inside!r}: take down {inside!r} for what they hold, "
            f"or {digest} for what the file contains now"
        )
    if not found and unseen:
        return Content(sha256=unseen)
    found = found or match_stored_sources(history, inside)
    contents = the_one(found, name, vocabulary(history, "source")).contents
    usable = [content for content in contents if not content.path_hex]
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise ConfigError(f"{name!r} is empty or could never be read: there is no content to recognise it by")
    digests = ", ".join(content.sha256[:12] for content in usable)
    raise ConfigError(f"{name!r} has been {len(usable)} different files; take down each that is meant: {digests}")


def _same_audio(history: History, content: Content) -> tuple[str, ...]:
    """Other sources of the latest snapshot that share its audio file (views of one take do)."""
    if not history.snapshots or not content.sha256:
        return ()
    rows = {number: source_rows(snapshot) for number, snapshot in history.snapshots.items()}
    own = {row["audio_sha256"] for found in rows.values() for row in found if row["sha256"] == content.sha256} - {""}
    newest = rows[max(rows)]
    return tuple(row["path"] for row in newest if row["audio_sha256"] in own and row["sha256"] != content.sha256)


# ---- what holds it


def _holds(history: History, ids: Collection[str]) -> Holds:
    refs: dict[str, int] = {}
    snapshots = []
    for number, snapshot in history.snapshots.items():
        shards = shards_with(snapshot, ids)
        entries = [entry for entry in snapshot.body.shards if entry.shard_id in shards]
        refs |= {ref.key: ref.num_bytes for entry in entries for ref in (entry.cut, *entry.features.values())}
        if shards:
            is_latest = number == max(history.snapshots)
            pinned_by = history.pins_of(snapshot)
            snapshots.append(HoldingSnapshot(number, snapshot.id, shards, pinned_by, is_latest))
    # Reports of these snapshots, and of those that are gone and may have held it.
    numbers = sorted({*(one.number for one in snapshots), *history.gone})
    reports = [report_folder(history.store, number) for number in numbers]
    return Holds(
        snapshots=tuple(snapshots),
        num_objects=len(refs),
        num_bytes=sum(refs.values()),
        orphans=_orphans(history, set(ids)),
        reports=tuple(folder.relative_to(history.store).as_posix() for folder in reports if folder.is_dir()),
    )


def _orphans(history: History, ids: set[str]) -> tuple[str, ...]:
    """Keys of cuts of one of these sources that no snapshot needs; an object that cannot be read may be one."""
    objects = ObjectStore(history.store)
    needed = {ref.key for snapshot in history.snapshots.values() for ref in snapshot.body.objects()}
    orphans = []
    for key in objects.keys():  # noqa: SIM118 - a store, not a mapping
        try:
            if key in needed or objects.manifest(key).step != "cut":
                continue
            held = read_table(objects.path(key) / SOURCES_FILE, ["source_id"])["source_id"].to_pylist()
        except StoreCorrupt:
            held = ids
        if not ids.isdisjoint(held):
            orphans.append(key)
    return tuple(orphans)


# ---- what to do


def _next(history: History, holds: Holds, runs: Sequence[SourceRun], unknown: Sequence[UnknownRun]) -> tuple[str, ...]:
    pinned = sorted({name for line in holds.snapshots for name in line.pinned_by})
    trained = [line.run for line in runs if line.is_trained_on]
    steps = [f"talkset refresh {history.dataset}: the next snapshot is without it"]
    if pinned:
        steps.append(f"remove pins/{', pins/'.join(pinned)}: gc keeps what these runs trained on")
    if holds.snapshots or holds.orphans:
        # Once the refresh is through, gc keeps the snapshots after the last one that holds it.
        last = max((line.number for line in holds.snapshots), default=0)
        keep = max(1, sum(number > last for number in history.snapshots))
        freed = f"frees its bytes, {holds.num_bytes} in {holds.num_objects} objects"
        steps.append(f"then talkset gc --keep {keep} --grace-hours 0: {freed}")
    if holds.reports:
        steps.append(f"remove {', '.join(holds.reports)}: their images may show it")
    if trained:
        steps.append(f"trained on it, withdraw or train again: {', '.join(trained)}")
    if unknown:
        steps.append(f"may have been trained on it: {', '.join(line.run for line in unknown)}")
    return (*steps, "exports, copies and backups outside the store are not known here")
