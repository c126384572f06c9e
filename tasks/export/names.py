"""Names that every file system and format takes, and the way back to the clip's own name."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

_MAX_BYTES = 200  # file names end at 255 bytes, suffixes included
_UNSAFE = frozenset('/\\<>:"|?*%')


def safe_name(name: str, also: str = "") -> str:
    """`name` with what some file system cannot hold percent-encoded as UTF-8 (`/` is %2F, `%` itself %25).

    A leading dot or hyphen, a trailing dot or space and the characters of `also` are encoded, too. Names over 200 bytes
    are cut and end in `~` and part of their hash.
    """
    unsafe = _UNSAFE | frozenset(also)
    out = "".join(_percent(char) if char in unsafe or not char.isprintable() else char for char in name)
    if out[:1] in (".", "-"):
        out = _percent(out[0]) + out[1:]
    if out[-1:] in (".", " "):
        out = out[:-1] + _percent(out[-1])
    data = out.encode()
    if len(data) > _MAX_BYTES:
        out = f"{data[: _MAX_BYTES - 17].decode(errors='ignore')}~{sha256(name.encode()).hexdigest()[:16]}"
    return out


def export_names(rows: Sequence[Mapping[str, Any]], rename: Callable[[str], str]) -> dict[str, str]:
    """Clip key -> exported name; names that become equal (in any case of letters) get part of the clip's key added."""
    names = {row["clip"]: rename(row["name"]) for row in rows}
    times: dict[str, int] = {}
    for name in names.values():
        times[name.casefold()] = times.get(name.casefold(), 0) + 1
    for clip, name in names.items():
        if times[name.casefold()] > 1:
            mark = sha256(clip.encode()).hexdigest()[:8]
            base, hash_sign, number = name.rpartition("#")
            # The mark stands before a last `#k`, which stays a number.
            is_segment = hash_sign and "#" not in base
            names[clip] = f"{base}~{mark}#{number}" if is_segment else f"{name}~{mark}"
    return names


def renamed(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, str]:
    """Exported name -> name in the snapshot, of the clips whose names differ."""
    return {names[row["clip"]]: row["name"] for row in rows if names[row["clip"]] != row["name"]}


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode())
