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
def html_environment() -> "Environment":
    """For pages: what is filled in is escaped as HTML."""
    return _environment(autoescape=True)


@cache
def markdown_environment() -> "Environment":
    """For cards: what is filled in cannot start Markdown or HTML of its own."""
    return _environment(finalize=escape_markdown)


def escape_markdown(value: Any) -> Any:
    """Text with Markdown's and HTML's special characters escaped and line breaks removed; Markup passes."""
    if hasattr(value, "__html__"):
        return value
    text = re.sub(r"\s+", " ", str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)


def percent(share: float) -> str:
    """0.9876 as '98.8 %'; what is not nothing is not shown as 0, what is not all not as 100."""
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


def _environment(**options: Any) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )
    found.filters |= {"percent": percent, "size": size_text, "count": count_text, "setting": setting_text}
    return found
