"""Structure check of an LMDB 0.9 file by plain reads, before LMDB maps it.

LMDB trusts its file: a missing page ends the process with SIGBUS, a garbled tree with SIGBUS or SIGABRT. Here the
two header pages and every page of the main tree are read and bounds-checked; values on overflow pages are not
(the object's SHA-256 covers those). Layout after lmdb's mdb.c, version 0.9:

    page    number u64, pad u16, flags u16, lower u16, upper u16, node offsets u16 ...
    header  page, magic u32, version u32, address u64, map size u64, free tree 48 bytes (its first u32 is the page
            size), main tree 48 bytes (..., entries u64, root u64), last page u64, transaction u64
    node    low u16, high u16, flags u16, key size u16, key, then the value or the u64 number of its overflow page
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<10xH4x II 16x I44x 32xQQ QQ")
_HEADER_MARKS = (8, 0xBEEFC0DE, 1)
_MAP_SIZE_OFFSET = 32
_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
_PAGE_HEAD_BYTES, _NODE_HEAD_BYTES = 16, 8
_BRANCH, _LEAF = 1, 2
_BIG_VALUE = 1
_EMPTY_TREE = 2**64 - 1


class BadPages(Exception):
    """The file is not what LMDB would need to read it safely; the message says what was found."""


@dataclass(frozen=True, slots=True)
class _Header:
    page_bytes: int
    num_entries: int
    root: int
    last_page: int
    transaction: int


def check_pages(path: Path) -> None:
    """Check a data.mdb file: complete, and every node of the main tree inside its page and the file.

    Raises:
        BadPages: it is not safe to open.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        header = _read_header(fd)
        claimed = (header.last_page + 1) * header.page_bytes
        if size < claimed:
            raise BadPages(f"has {size} bytes, its header claims {claimed}")
        _check_tree(fd, header)
    finally:
        os.close(fd)


def set_map_size(path: Path, page_bytes: int, map_size: int) -> None:
    """Write the map size into both header pages of a closed environment."""
    with path.open("r+b") as stream:
        for page in (0, 1):
            stream.seek(page * page_bytes + _MAP_SIZE_OFFSET)
            stream.write(struct.pack("<Q", map_size))


def _read_header(fd: int) -> _Header:
    """The newer of the two header pages."""
    page_bytes = _parse_header(os.pread(fd, _HEADER.size, 0)).page_bytes
    if page_bytes not in _PAGE_SIZES:
        raise BadPages("is not an LMDB file")
    headers = [_parse_header(os.pread(fd, _HEADER.size, offset)) for offset in (0, page_bytes)]
    return max(headers, key=lambda header: header.transaction)


def _parse_header(raw: bytes) -> _Header:
    if len(raw) < _HEADER.size:
        raise BadPages("is not an LMDB file")
    flags, magic, version, page_bytes, num_entries, root, last_page, transaction = _HEADER.unpack(raw)
    if (flags, magic, version) != _HEADER_MARKS:
        raise BadPages("is not an LMDB file")
    return _Header(page_bytes, num_entries, root, last_page, transaction)


def _check_tree(fd: int, header: _Header) -> None:
    pending, seen, num_entries = [header.root], set(), 0
    while pending and header.root != _EMPTY_TREE:
        number = pending.pop()
        if number in seen or not 1 < number <= header.last_page:
            raise BadPages(f"its tree has a wrong link to page {number}")
        seen.add(number)
        page = os.pread(fd, header.page_bytes, number * header.page_bytes)
        children, num_leaves = _check_page(page, number, header)
        pending.extend(children)
        num_entries += num_leaves
    if num_entries != header.num_entries:
        raise BadPages(f"its tree has {num_entries} entries, the header says {header.num_entries}")


def _check_page(page: bytes, number: int, header: _Header) -> tuple[list[int], int]:
    """Pages that a tree page links to (none for a leaf), and the number of entries on it (0 for a branch)."""
    own_number, flags, lower, upper = struct.unpack_from("<Q2xHHH", page)
    if own_number != number or flags not in (_BRANCH, _LEAF) or not _PAGE_HEAD_BYTES < lower <= upper <= len(page):
        raise BadPages(f"page {number} is damaged")
    offsets = np.frombuffer(page, "<u2", (lower - _PAGE_HEAD_BYTES) // 2, _PAGE_HEAD_BYTES).astype(np.int64)
    if offsets.min() < upper or offsets.max() + _NODE_HEAD_BYTES > len(page):
        raise BadPages(f"page {number} is damaged")
    nodes = np.frombuffer(page, np.uint8)[offsets[:, None] + np.arange(_NODE_HEAD_BYTES)].view("<u2").astype(np.int64)
    if flags == _BRANCH:
        _check_ends(offsets + _NODE_HEAD_BYTES + nodes[:, 3], page, number)
        return (nodes[:, 0] | nodes[:, 1] << 16 | nodes[:, 2] << 32).tolist(), 0
    _check_leaf(page, number, offsets, nodes, header)
    return [], len(offsets)


def _check_leaf(
    page: bytes, number: int, offsets: NDArray[np.int64], nodes: NDArray[np.int64], header: _Header
) -> None:
    """Values must end inside their page, values on overflow pages inside the file."""
    num_bytes, is_big = nodes[:, 0] | nodes[:, 1] << 16, nodes[:, 2] == _BIG_VALUE
    starts = offsets + _NODE_HEAD_BYTES + nodes[:, 3]
    _check_ends(starts + np.where(is_big, 8, num_bytes), page, number)
    links = np.frombuffer(page, np.uint8)[starts[is_big][:, None] + np.arange(8)].view("<u8")[:, 0]
    num_pages = (_PAGE_HEAD_BYTES - 1 + num_bytes[is_big]) // header.page_bytes + 1
    if (links < 2).any() or (links > header.last_page).any():
        raise BadPages(f"page {number} links to a page outside the file")
    if (links.astype(np.int64) + num_pages - 1 > header.last_page).any():
        raise BadPages(f"page {number} has a value that ends outside the file")


def _check_ends(ends: NDArray[np.int64], page: bytes, number: int) -> None:
    if (ends > len(page)).any():
        raise BadPages(f"page {number} has an entry that ends outside it")
