"""Takedown: withdraw a source, so that no later snapshot holds it; say what still does, and what was made of it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.cut_tables import SOURCES_FILE
from storage.errors import ConfigError, StoreCorrupt
from storage.objects import ObjectStore
from storage.snapshot import latest, store_dataset
from storage.tables import read_table
from storage.takedowns import Takedown, add_takedown, load_takedowns, remove_takedown
from tasks.store.lineage.history import History, gone_lines, read_history, source_rows
from tasks.store.lineage.names import digest_of_file, the_one
from tasks.store.lineage.of_source import Content, match_sources, shards_with, source_lineage


def take_down(store: Path, name: str, reason: str, who: str = "") -> dict[str, Any]:
    """Writes down that a source is withdrawn. Removes nothing: refresh and gc do, and a person decides about runs.

    Args:
        store: folder of the store.
        name: the source, see `lineage.lineage`; also a file, or the whole hash of one, that no snapshot knows.
        reason: stands in the tables of later snapshots.
        who: asked for it or did it; stands only in the list.

    Returns:
        'takedown' (the entry), 'is_new' (it was not on the list);
        'paths', 'snapshots', 'since', 'until', 'runs', 'unknown_runs': what was made of it, see `source_lineage`;
        'gone': snapshots that were collected, see `tasks.store.lineage.lineage`;
        'holds': what still contains it, see `_holds`;
        'same_audio': paths of sources that stay although their audio file has the same bytes as its own;
        'next': what to do now, in sentences.

    Raises:
        ConfigError: no source is called so, or several are, or there is nothing that it would be recognised by.
        LockedError: somebody else is writing the list.
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
            source_ids=tuple(known["source_ids"]),
            path=known["paths"][0] if known["paths"] else _one_line(name),
            reason=_one_line(reason),
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
            who=_one_line(who),
        ),
    )
    kept = {key: known[key] for key in ("paths", "snapshots", "since", "until", "runs", "unknown_runs")}
    holds = _holds(history, entry.source_ids)
    return {
        "takedown": entry.model_dump(mode="json"),
        "is_new": is_new,
        **kept,
        "gone": gone_lines(history),
        "holds": holds,
        "same_audio": _same_audio(history, content),
        "next": _next(history, holds, kept["runs"], kept["unknown_runs"]),
    }


def put_back(store: Path, name: str) -> dict[str, Any]:
    """Takes a source off the list, so that the next refresh uses it again.

    Args:
        store: folder of the store.
        name: its path or the end of it, or the first digits (6 or more) of its hash or id.

    Returns:
        'put_back': the entry that was removed; 'next': what to do now.

    Raises:
        ConfigError: no entry is called so, or several are; they are named.
    """
    entries = load_takedowns(store).entries
    found = [entry for entry in entries if entry.is_called(name)]
    if len(found) != 1:
        listed = ", ".join(f"{entry.path} ({(entry.sha256 or entry.source_ids[0])[:12]})" for entry in found or entries)
        raise ConfigError(f"{store}: {len(found)} takedowns are called {name!r}; on the list: {listed or 'none'}")
    remove_takedown(store, found[0])
    back = f"talkset refresh {store_dataset(store)}: uses it again if its file is there"
    return {"put_back": found[0].model_dump(mode="json"), "next": [back]}


def list_takedowns(store: Path) -> dict[str, Any]:
    """The list: 'takedowns', oldest first, each entry with 'is_in_latest': the latest snapshot still holds it.

    Raises:
        ConfigError: the folder is no store.
    """
    store_dataset(store)
    takedowns, current = load_takedowns(store), latest(store)
    held = takedowns.held_in(current) if current else []
    return {
        "takedowns": [entry.model_dump(mode="json") | {"is_in_latest": entry in held} for entry in takedowns.entries]
    }


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
    found = match_sources(history, name) or match_sources(history, digest)
    unseen = digest or (name if len(name) == 64 and set(name) <= set("0123456789abcdef") else "")
    if not found and unseen:
        return Content(sha256=unseen)
    contents = the_one(found, name, history, "source").meant
    usable = [content for content in contents if not content.path_hex]
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise ConfigError(f"{name!r} is empty or could never be read: there is no content to recognise it by")
    digests = ", ".join(content.sha256[:12] for content in usable)
    raise ConfigError(f"{name!r} has been {len(usable)} different files; take down each that is meant: {digests}")


def _same_audio(history: History, content: Content) -> list[str]:
    """Other sources of the latest snapshot that share its audio file (views of one take do)."""
    if not history.snapshots or not content.sha256:
        return []
    rows = {number: source_rows(snapshot) for number, snapshot in history.snapshots.items()}
    own = {row["audio_sha256"] for found in rows.values() for row in found if row["sha256"] == content.sha256} - {""}
    newest = rows[max(rows)]
    return [row["path"] for row in newest if row["audio_sha256"] in own and row["sha256"] != content.sha256]


# ---- what holds it


def _holds(history: History, ids: Collection[str]) -> dict[str, Any]:
    """What still contains its frames, sound or numbers.

    Returns:
        'snapshots': each with 'number', 'id', 'shards' (ids), 'pinned_by' (runs for which gc keeps it), 'is_latest';
        'num_objects', 'num_bytes' of these shards;
        'orphans': keys of cuts that no snapshot needs, and that hold it or cannot be read; gc removes them;
        'reports': pages, relative to the store, of snapshots that had it; their pictures may show it.
    """
    refs: dict[str, int] = {}
    snapshots = []
    for number, snapshot in history.snapshots.items():
        shards = shards_with(snapshot, ids)
        entries = [entry for entry in snapshot.body.shards if entry.shard_id in shards]
        refs |= {ref.key: ref.num_bytes for entry in entries for ref in (entry.cut, *entry.features.values())}
        if shards:
            snapshots.append(
                {"number": number, "id": snapshot.id, "shards": shards, "pinned_by": _pins(history.store, snapshot.id),
                 "is_latest": number == max(history.snapshots)}
            )  # fmt: skip
    return {
        "snapshots": snapshots,
        "num_objects": len(refs),
        "num_bytes": sum(refs.values()),
        "orphans": _orphans(history, set(ids)),
        "reports": _reports(history, [line["number"] for line in snapshots]),
    }


def _pins(store: Path, snapshot_id: str) -> list[str]:
    pins = sorted(path for path in (store / "pins").glob("*") if path.is_file())
    return [path.name for path in pins if path.read_text(encoding="utf-8").strip() == snapshot_id]


def _orphans(history: History, ids: set[str]) -> list[str]:
    objects = ObjectStore(history.store)
    needed = {ref.key for snapshot in history.snapshots.values() for ref in snapshot.body.objects()}
    return [key for key in objects.keys() if key not in needed and _may_hold(objects, key, ids)]  # noqa: SIM118 - a store


def _may_hold(objects: ObjectStore, key: str, ids: set[str]) -> bool:
    """Whether an object is a cut of one of these sources; one that cannot be read may be."""
    try:
        if objects.manifest(key).step != "cut":
            return False
        table = read_table(objects.path(key) / SOURCES_FILE, ["source_id"])
    except StoreCorrupt:
        return True
    return not ids.isdisjoint(table["source_id"].to_pylist())


def _reports(history: History, numbers: Sequence[int]) -> list[str]:
    """Reports of these snapshots and of those that are gone, of which nobody can tell."""
    folders = [f"reports/{number:06d}" for number in sorted({*numbers, *history.gone})]
    return [folder for folder in folders if (history.store / folder).is_dir()]


# ---- what to do


def _next(
    history: History, holds: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], unknown: Sequence[Mapping[str, Any]]
) -> list[str]:
    held = holds["snapshots"]
    pinned = sorted({name for line in held for name in line["pinned_by"]})
    trained = [line["run"] for line in runs if line["is_trained_on"]]
    steps = [f"talkset refresh {history.dataset}: the next snapshot is without it"]
    if pinned:
        steps.append(f"remove pins/{', pins/'.join(pinned)}: gc keeps what these runs trained on")
    if held or holds["orphans"]:
        steps.append(f"{_gc(history, held)}: frees its bytes, {holds['num_bytes']} in {holds['num_objects']} objects")
    if holds["reports"]:
        steps.append(f"remove {', '.join(holds['reports'])}: their pictures may show it")
    if trained:
        steps.append(f"trained on it, withdraw or train again: {', '.join(trained)}")
    if unknown:
        steps.append(f"may have been trained on it: {', '.join(line['run'] for line in unknown)}")
    return [*steps, "exports, copies and backups outside the store are not known here"]


def _gc(history: History, held: Sequence[Mapping[str, Any]]) -> str:
    """The command that collects the snapshots that hold it, given once the refresh is through."""
    last = max((line["number"] for line in held), default=0)
    newer = sum(number > last for number in history.snapshots)
    return f"then talkset gc --keep {max(1, newer)} --grace-hours 0"
