"""Path patterns of datasets.yaml: `{subject}/video/{take:\\d+}.mp4`."""

import re
from functools import lru_cache
from string import Formatter

_GROUP = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression with named groups; a bare group takes anything but a slash.

    Raises:
        ValueError: it is no valid pattern; says what is wrong.
    """
    parts = _GROUP.split(pattern)
    out = [re.escape(parts[0])]
    for name, regex, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        out.append(f"(?P<{name}>{regex or '[^/]+'})" + re.escape(literal))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no valid pattern: {error}") from None


def template_fields(template: str) -> set[str]:
    """Names that a template such as `{subject}#{take}` fills in."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}
