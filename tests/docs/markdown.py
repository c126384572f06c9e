"""What the tests of the documentation read out of Markdown pages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: the word behind the fence, its text, and its place for messages."""

    page: Path
    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page, language, text) for language, text in found if language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def talkset_lines(page: Path) -> Iterator[str]:
    """Every line of a shell block that runs `talkset`, from the name of the command on, without comments."""
    for block in blocks(page, "sh", ""):
        for line in block.text.splitlines():
            line = line.removeprefix("$ ")
            line = re.sub(r"^torchrun .* -m flows ", "talkset ", line)
            line = re.sub(r"^(\w+=\S+ )+", "", line)
            if line.startswith("talkset "):
                yield line


def links(page: Path) -> list[str]:
    """Targets of the links and images of a page that lead to files of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """Names that links into a page can end in."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
