"""Pages: sizes, links, commands that the parser accepts, variables that are documented."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.conftest import REPOSITORY
from tests.docs.markdown import PAGES, anchors, blocks, links, prose, talkset_lines

README = REPOSITORY / "README.md"


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def test_the_readme_can_be_read_in_one_sitting() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 100] == []


def test_images_are_small() -> None:
    images = [*(REPOSITORY / "docs").rglob("*.png"), *(REPOSITORY / "docs").rglob("*.jpg")]
    assert [name_of(path) for path in images if path.stat().st_size > 300_000] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, todo = set(), [README]
    while todo:
        page = todo.pop()
        if page not in reached:
            reached.add(page)
            targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
            todo += [target for target in targets if target.suffix == ".md"]
    assert [name_of(page) for page in PAGES if page not in reached] == []


def test_pages_have_the_names_of_the_plan() -> None:
    docs = REPOSITORY / "docs"
    wanted = {
        "": ("tutorial", "benchmarks", "weights-and-licences", "glossary"),
        "how-to": ("add-a-dataset", "add-an-extractor", "add-a-face-backend", "add-a-system", "animate",
                   "run-on-a-cluster", "takedown"),
        "reference": ("cli", "datasets-yaml", "features", "reasons", "store-layout", "stages-and-presets"),
        "explanation": ("design", "keys-and-caching", "time-law", "crop-and-framing"),
    }  # fmt: skip
    pages = [docs / folder / f"{name}.md" for folder, names in wanted.items() for name in names]
    assert [name_of(page) for page in pages if not page.is_file()] == []
    assert all((REPOSITORY / name).is_file() for name in ("LICENSE", "CONTRIBUTING.md", "CHANGELOG.md"))


# ---- commands


@pytest.fixture(scope="module")
def command() -> Any:
    from flows.cli.main import app

    return get_command(app)


def parse(command: Any, words: list[str]) -> None:
    """Lets the parser of the command read a line as it would, without running anything.

    Raises:
        typer's UsageError: no such sub-command or option, an argument too few or too many, a value of another type.
    """
    context = None
    while hasattr(command, "list_commands"):
        context = command.make_context(words[0], words[1:], parent=context)
        rest = [*context._protected_args, *context.args]
        _, command, rest = command.resolve_command(context, rest)
        words = [command.name, *rest]
    command.make_context(words[0], words[1:], parent=context)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_blocks_are_accepted(page: Path, command: Any) -> None:
    for line in talkset_lines(page):
        words = shlex.split(line, comments=True)
        if words[-1] not in ("--help", "serve"):
            try:
                parse(command, words)
            except Exception as error:
                pytest.fail(f"{line}: {getattr(error, 'message', error)}")


def test_wrong_commands_are_not_accepted(command: Any) -> None:
    for line in (
        "refresh",
        "refresh a b",
        "refresh a --wokers 2",
        "refresh a --workers two",
        "refrehs a",
        "weights show",
    ):
        with pytest.raises(Exception, match=r"(?i)missing|unexpected|no such|valid integer"):
            parse(command, ["talkset", *line.split()])


def inline_commands(page: Path) -> Iterator[list[str]]:
    """`talkset ...` in running text: words before the first argument, and the options."""
    for code in re.findall(r"`talkset ([^`]+)`", prose(page)):
        yield " ".join(code.split()).split()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_exist(page: Path, command: Any) -> None:
    for words in inline_commands(page):
        if words[0].isupper() or words[0].startswith(("-", ".")):
            continue
        place, rest, context = command, list(words), None
        while hasattr(place, "list_commands") and rest and not rest[0].startswith("-") and not rest[0].isupper():
            context = place.make_context("talkset", [], parent=context, resilient_parsing=True)
            assert rest[0] in place.list_commands(context), words
            place = place.get_command(context, rest.pop(0))
        options = {name for parameter in place.params for name in parameter.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= options, words


# ---- words and variables

# Words of the past; docs/glossary.md has those to use instead.
OLD_WORDS = re.compile(
    r"\b(pictures?|sounds?|stranded|wishes|stock|moods?|felt|hears?|heard|troubles?)\b", re.IGNORECASE
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_use_the_words_of_the_glossary(page: Path) -> None:
    """In what is written by hand; generated parts repeat docstrings."""
    text = re.sub(r"<!-- begin generated.*?<!-- end generated -->", "", prose(page), flags=re.DOTALL)
    assert OLD_WORDS.findall(text) == []


def test_every_environment_variable_is_documented() -> None:
    files = [path for folder in ("flows", "tasks", "models", "storage") for path in (REPOSITORY / folder).rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    used = set(re.findall(r"\bTALKSET_[A-Z_]*[A-Z]\b", text))
    documented = (REPOSITORY / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in sorted(used) if f"`{name}`" not in documented] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, str(page), "exec")
