"""Inventory: walk the dataset root by its patterns and write down every source before any work starts."""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from storage.catalog import Dataset, Layout, compile_pattern
from storage.errors import PreflightError, Reason
from storage.hash_cache import HashCache
from storage.records import Source
from storage.takedowns import NO_TAKEDOWNS, Takedowns
from tasks.hdtf_annotations import spans_of

VIDEO_EXTENSIONS = frozenset(
    (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".3gp", ".3g2", ".mj2", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every source of a dataset, sorted by path, and what was passed over.

    Attributes:
        sources: one per video file.
        num_not_selected: files that match a pattern but not its `select`.
        num_ignored: files that are no video by name and match no pattern.
        num_not_taken: sources left out of this run by --limit or --retry-failed.
        taken_down: ids of withdrawn sources, sorted, whether their files are there or not; no shard may hold one.
    """

    sources: tuple[Source, ...]
    num_not_selected: int
    num_ignored: int
    num_not_taken: int = 0
    taken_down: tuple[str, ...] = ()


def take_inventory(dataset: Dataset, cache: HashCache, takedowns: Takedowns = NO_TAKEDOWNS) -> Inventory:
    """Walks the root of `dataset`; hashes what changed since the last run.

    Nothing under the root is written, no FIFO or device is opened, no link that leaves the root is followed.

    Args:
        dataset: whose root.
        cache: hashes known from earlier runs.
        takedowns: sources with one of these contents are rejected as TAKEN_DOWN, whatever they are called.

    Raises:
        PreflightError: the root is no readable folder.
    """
    root = require_root(dataset)
    sources: list[Source] = []
    num_not_selected = num_ignored = 0
    for relative in sorted(_files(root), key=os.fsencode):
        match = _match(dataset, relative)
        if match is None:
            if Path(relative).suffix.lower() in VIDEO_EXTENSIONS:
                sources.append(_misnamed(relative))
            else:
                num_ignored += 1
        elif not all(match[2].get(group) in wanted for group, wanted in match[0].select.items()):
            num_not_selected += 1
        else:
            sources.append(_unless_taken_down(_source(root, relative, *match, cache), takedowns))
    withdrawn = {source.source_id for source in sources if source.reason is Reason.TAKEN_DOWN}
    taken_down = tuple(sorted(withdrawn | takedowns.source_ids))
    return Inventory(tuple(sources), num_not_selected, num_ignored, taken_down=taken_down)


def require_root(dataset: Dataset) -> Path:
    """The dataset's root folder, absolute.

    Raises:
        PreflightError: an unset variable in its path, no such folder, or no permission to list it.
    """
    if "${" in str(dataset.root):
        raise PreflightError(f"dataset {dataset.name!r}: root is {dataset.root}; set that environment variable")
    root = dataset.root.expanduser().absolute()
    if not root.is_dir():
        raise PreflightError(f"dataset {dataset.name!r}: its root {root} is no folder; see `root` in datasets.yaml")
    if not os.access(root, os.R_OK | os.X_OK):
        raise PreflightError(f"dataset {dataset.name!r}: no permission to list {root}")
    return root


def escape_path(path: str) -> str:
    r"""`path` as printable text: bytes that are no UTF-8 and control characters become \xNN, a backslash doubles."""
    out = []
    for char in path:
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif unicodedata.category(char) in ("Cc", "Cs") or char == "\\":
            out.append("\\\\" if char == "\\" else f"\\x{code:02x}")
        else:
            out.append(char)
    return "".join(out)


def _files(root: Path) -> Iterator[str]:
    """Relative paths of everything under root that is no folder; links to folders are not entered (no loops)."""
    for folder, subfolders, names in os.walk(root, onerror=_unlistable, followlinks=False):
        subfolders.sort(key=os.fsencode)
        prefix = os.path.relpath(folder, root)
        # A link to a folder stands among the subfolders but is not walked: it is named as unsafe instead of vanishing.
        links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            yield name if prefix == "." else f"{prefix}/{name}"


def _unlistable(error: OSError) -> None:
    """Stops the walk: sources in a folder that cannot be listed would be missing without notice."""
    raise PreflightError(
        f"{error.filename}: cannot be listed ({error.strerror}); mend that and refresh again"
    ) from error


def _match(dataset: Dataset, relative: str) -> tuple[Layout, str, dict[str, str]] | None:
    for name, layout in dataset.layouts.items():
        found = compile_pattern(layout.pattern).fullmatch(relative)
        if found:
            return layout, name, {key: value or "" for key, value in found.groupdict().items()}
    return None


def _misnamed(relative: str) -> Source:
    return Source(
        path=escape_path(relative), path_hex=os.fsencode(relative).hex(), layout="", name=escape_path(relative),
        subject="", labels={}, reason=Reason.BAD_NAME,
        detail="a video that matches no layout's pattern; rename it or add a layout in datasets.yaml",
    )  # fmt: skip


def _unless_taken_down(source: Source, takedowns: Takedowns) -> Source:
    found = takedowns.of(source.sha256, source.source_id)
    if found is None:
        return source
    return replace(source, reason=Reason.TAKEN_DOWN, detail=f"taken down: {found.reason}", error="")


def _source(
    root: Path, relative: str, layout: Layout, layout_name: str, groups: dict[str, str], cache: HashCache
) -> Source:
    labels = {key: escape_path(value) for key, value in groups.items()}
    named = Source(
        path=escape_path(relative),
        path_hex=os.fsencode(relative).hex(),
        layout=layout_name,
        # {span} is known only when the source is cut: it stays in the name until then.
        name=layout.name.format_map({**labels, "span": "{span}"}),
        subject=layout.subject.format_map(labels),
        labels={key: value for key, value in labels.items() if key != "subject"},
    )
    try:
        refusal = _refusal(root, relative)
        if refusal:
            return replace(named, reason=refusal[0], detail=refusal[1])
        facts = cache.facts(root / relative)
        # Known also of a source whose audio file then turns out to be unreadable.
        named = replace(named, size_bytes=facts.num_bytes, sha256=facts.sha256, seconds=facts.seconds)
        audio_path_hex, audio_sha256 = _audio(root, layout, groups, cache)
    except OSError as error:
        return replace(named, error=f"{type(error).__name__}: {error.strerror}; make the file readable")
    spans = spans_of(root, layout.annotations, groups)
    read = replace(named, spans=spans)
    if layout.annotations and not spans:
        detail = f"not in the annotation lists of {layout.annotations.folder}"
        return replace(read, reason=Reason.BAD_NAME, detail=detail)
    if facts.num_bytes == 0:
        return replace(read, reason=Reason.EMPTY, detail="the file has no bytes")
    return replace(read, audio_path_hex=audio_path_hex, audio_sha256=audio_sha256)


def _refusal(root: Path, relative: str) -> tuple[Reason, str] | None:
    """Why the path may not be opened, or None: links out of the root or nowhere, devices, pipes, sockets.

    Raises:
        OSError: the machine, not the path, is at fault.
    """
    path = root / relative
    try:
        if not path.resolve(strict=True).is_relative_to(root.resolve()):
            return Reason.UNSAFE_PATH, "a link that leaves the dataset's root"
        mode = path.stat().st_mode
    except RuntimeError:
        return Reason.UNSAFE_PATH, "a link that leads in a circle"
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return Reason.UNSAFE_PATH, "a link that leads nowhere or in a circle"
    if stat.S_ISDIR(mode):
        return Reason.UNSAFE_PATH, "a link to a folder; links to folders are not followed"
    if not stat.S_ISREG(mode):
        return Reason.UNSAFE_PATH, "not a regular file (a device, pipe or socket)"
    return None


def _audio(root: Path, layout: Layout, groups: dict[str, str], cache: HashCache) -> tuple[str, str]:
    """(path_hex, sha256) of the audio file beside the video; empty where there is none: the cut then says NO_AUDIO."""
    if layout.audio.path is None:
        return "", ""
    relative = layout.audio.path.format_map(groups)
    if not (root / relative).is_file() or _refusal(root, relative):
        return "", ""
    return os.fsencode(relative).hex(), cache.facts(root / relative).sha256
