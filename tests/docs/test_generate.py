"""The generated parts of the documentation are what the code says today."""

import importlib.util
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("docs_generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_generated_part_is_stale(generate: ModuleType) -> None:
    stale = []
    for page in generate.pages():
        text = page.read_text(encoding="utf-8")
        if generate.render(text) != text:
            stale.append(str(page.relative_to(REPOSITORY)))
    assert stale == [], "run `make docs`"


def test_every_part_stands_in_a_page(generate: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in generate.pages())
    assert [name for name in generate.PARTS if f"<!-- begin generated: {name} -->" not in text] == []


def test_what_is_discovered_is_listed() -> None:
    from models.systems import systems
    from models.training.stages import discover
    from storage.errors import Reason
    from tasks import features

    reference = REPOSITORY / "docs" / "reference"
    page = (reference / "features.md").read_text()
    for name, extractor in features.discover().items():
        assert f"\n## `{name}`\n" in page
        assert all(f"\n| `{column.name}` | " in page for column in extractor.COLUMNS)
    page = (reference / "stages-and-presets.md").read_text()
    assert all(f"\n### {system} `{stage}`\n" in page for system in systems() for stage in discover(system))
    page = (reference / "reasons.md").read_text()
    assert all(f"`{reason.value}`" in page for reason in Reason)


def test_text_outside_the_generated_parts_stays(generate: ModuleType) -> None:
    part = "<!-- begin generated: reasons -->\nfrom before\n<!-- end generated -->"
    page = generate.render(f"# Before\n\n{part}\n\nafter\n")
    assert page.startswith("# Before\n\n<!-- begin generated: reasons -->\n\n| ")
    assert page.endswith("\n\n<!-- end generated -->\n\nafter\n")
    assert "from before" not in page
    assert generate.render(page) == page
    with pytest.raises(KeyError, match="nothing"):
        generate.render(part.replace("reasons", "nothing"))
