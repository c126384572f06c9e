"""Templates, and how numbers are written in them. Names may contain anything: all is escaped unless it is Markup."""

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


@cache
def environment(is_html: bool) -> "Environment":
    """The templates, for pages (text is escaped as HTML) or for cards (text starts no Markdown or HTML of its own)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    found = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                        autoescape=is_html, finalize=None if is_html else escape_markdown)  # fmt: skip
    found.filters |= {"percent": percent, "size": size_text, "count": count_text, "setting": setting_text}
    return found


def escape_markdown(value: Any) -> Any:
    """Text with Markdown's and HTML's special characters escaped and line breaks removed; Markup passes."""
    if hasattr(value, "__html__"):
        return value
    text = re.sub(r"\s+", " ", str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)


def percent(share: float) -> str:
    """0.9876 as '98.8 %'; a share that is not 0 or 1 is never shown as 0 or 100."""
    if share != share:
        return "–"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    is_near_end = not 0.0005 <= share < 0.9995
    return f"{min(99.99, max(0.01, 100 * share)):.2f} %" if is_near_end else f"{100 * share:.1f} %"


def size_text(num_bytes: float) -> str:
    """12345678 as '12.3 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} TB"


def count_text(number: int) -> str:
    """1234567 with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def setting_text(value: Any) -> str:
    """A setting as it would stand in datasets.yaml; 'not set' for none."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
