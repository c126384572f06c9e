"""Keys: each input moves the keys of the steps that depend on it, and no others."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.catalog import AudioRule, ClipRule, CropRule, Dataset, FaceRule, LimitRule, SplitRule, Threshold
from storage.records import Member
from tasks import features, step_keys
from tasks.shard_work import subject_groups
from tasks.step_keys import code_digest, cut_key, feature_key, normal_form
from tests.synthetic_store import synthetic_dataset

MEMBERS = (Member("a" * 20, "raw", "M1"), Member("b" * 20, "raw", "M1"), Member("c" * 20, "talks", "M2"))
NAMES = ("mel", "mel50", "landmarks", "bbox", "face3d", "quality", "sync")


def all_keys(dataset: Dataset, members: Sequence[Member] = MEMBERS, **given: dict[str, Any]) -> dict[str, str]:
    """Step -> key of the whole shard, in the order of the DAG; `given` are parameters by extractor."""
    keys = {"cut": cut_key(dataset, members)[0]}
    for name in features.in_order(NAMES):
        extractor = features.discover()[name]
        needs = {need: keys[need] for need in extractor.REQUIRES}
        params = extractor.Params.model_validate(given.get(name, {}))
        keys[name] = feature_key(name, params, keys["cut"], needs, subject_groups(members))[0]
    return keys


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {step for step in before if before[step] != after[step]}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return synthetic_dataset()


@pytest.fixture(scope="module")
def keys(dataset: Dataset) -> dict[str, str]:
    return all_keys(dataset)


def test_keys_are_all_different_and_repeatable(dataset: Dataset, keys: dict[str, str]) -> None:
    assert len(set(keys.values())) == len(keys)
    assert all_keys(dataset) == keys


@pytest.mark.parametrize(
    ("name", "params", "wanted"),
    [
        ("mel", {"pad_mode": "constant"}, {"mel"}),
        ("sync", None, {"sync"}),
        ("quality", None, {"quality"}),
        ("landmarks", None, None),
        ("face3d", {"num_id_frames": 16}, {"face3d"}),
    ],
)
def test_a_parameter_moves_only_its_step_and_those_that_need_it(
    dataset: Dataset, keys: dict[str, str], name: str, params: dict[str, Any] | None, wanted: set[str] | None
) -> None:
    changed = params or _another_value(name)
    needers = {other for other in NAMES if name in features.discover()[other].REQUIRES}
    assert moved(keys, all_keys(dataset, **{name: changed})) == (wanted or {name}) | needers


def _another_value(name: str) -> dict[str, Any]:
    """The first numeric parameter of an extractor, a little larger."""
    for key, field in features.discover()[name].Params.model_fields.items():
        if isinstance(field.default, bool):
            return {key: not field.default}
        if isinstance(field.default, int | float):
            return {key: type(field.default)(field.default * 1.5 + 1)}
    pytest.skip(f"{name} has no numeric parameter")


@pytest.mark.parametrize(
    "change",
    [
        {"crop": CropRule(margin=0.2)}, {"crop": CropRule(size_px=512)}, {"crop": CropRule(scope="source")},
        {"crop": CropRule(jpeg_quality=96)}, {"face": FaceRule(max_faces=1)},
        {"face": FaceRule(tracking={"detect_every": 10})}, {"limits": LimitRule(max_corrupt_share=0.2)},
    ],
)  # fmt: skip
def test_a_rule_of_the_cut_moves_everything(dataset: Dataset, keys: dict[str, str], change: dict[str, Any]) -> None:
    assert moved(keys, all_keys(dataset.model_copy(update=change))) == set(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"root": Path("/somewhere/else")}, {"name": "other"}, {"shard_minutes": 3.0}, {"split": SplitRule(test=["M1"])},
        {"thresholds": {"sync_confidence": Threshold(min=1)}}, {"limits": LimitRule(max_wall_s=1)},
    ],
)  # fmt: skip
def test_what_does_not_change_bytes_moves_nothing(
    dataset: Dataset, keys: dict[str, str], change: dict[str, Any]
) -> None:
    assert moved(keys, all_keys(dataset.model_copy(update=change))) == set()


def with_layout(dataset: Dataset, layout: str, **change: Any) -> Dataset:
    layouts = {**dataset.layouts, layout: dataset.layouts[layout].model_copy(update=change)}
    return dataset.model_copy(update={"layouts": layouts})


def test_rules_of_a_layout_move_only_shards_that_hold_it(dataset: Dataset) -> None:
    for change in ({"clips": ClipRule(length_s=2.0)}, {"audio": AudioRule(required=False)}):
        other = with_layout(dataset, "talks", **change)
        assert moved(all_keys(dataset), all_keys(other)) != set()
        assert moved(all_keys(dataset, MEMBERS[:2]), all_keys(other, MEMBERS[:2])) == set()


def test_names_and_patterns_of_a_layout_move_nothing(dataset: Dataset, keys: dict[str, str]) -> None:
    renamed = with_layout(
        dataset, "talks", name="x{subject}", pattern="elsewhere/{subject}.mp4", select={"subject": ["M2"]}
    )
    assert moved(keys, all_keys(renamed)) == set()


def test_contents_and_order_of_sources_move_everything(dataset: Dataset, keys: dict[str, str]) -> None:
    assert moved(keys, all_keys(dataset, (MEMBERS[1], MEMBERS[0], MEMBERS[2]))) == set(keys)
    assert moved(keys, all_keys(dataset, MEMBERS[:2])) == set(keys)


def test_a_renamed_subject_moves_nothing_a_regrouped_one_what_subjects_share(
    dataset: Dataset, keys: dict[str, str]
) -> None:
    renamed = [Member(member.source_id, member.layout, f"new {member.subject}") for member in MEMBERS]
    assert moved(keys, all_keys(dataset, renamed)) == set()
    regrouped = [Member(MEMBERS[0].source_id, "raw", "M9"), *MEMBERS[1:]]
    prepared = {name for name in NAMES if hasattr(features.discover()[name], "prepare")}
    assert moved(keys, all_keys(dataset, regrouped)) == prepared != set()


def test_equal_labels_in_two_layouts_are_two_subjects() -> None:
    members = [Member("a", "raw", "M1"), Member("b", "talks", "M1"), Member("c", "raw", "M1")]
    assert subject_groups(members) == (0, 1, 0)


@pytest.mark.parametrize(
    ("library", "wanted"), [("av", {"cut", *NAMES}), ("soxr", {"cut", *NAMES}), ("scipy", None), ("prefect", set())]
)
def test_a_library_moves_the_steps_whose_numbers_it_makes(
    dataset: Dataset, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, library: str, wanted: set[str] | None
) -> None:
    from storage import keys as storage_keys

    version = storage_keys._version
    monkeypatch.setattr(storage_keys, "_version", lambda name: "99" if name == library else version(name))
    users = {name for name in NAMES if library in features.discover()[name].LIBRARIES}
    found = moved(keys, all_keys(dataset))
    assert found == wanted if wanted is not None else found >= users != set()


def test_a_raised_version_moves_only_its_step(
    dataset: Dataset, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-06."""
    monkeypatch.setattr(features.discover()["sync"], "VERSION", 99)
    assert moved(keys, all_keys(dataset)) == {"sync"}
    monkeypatch.setattr(step_keys, "CUT_VERSION", 99)
    assert moved(keys, all_keys(dataset)) == set(keys)


# ---- code


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two source files that stands for tasks/."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "one.py").write_text('"""Doc."""\n\n\ndef f(x):\n    return x + 1  # why\n')
    (tmp_path / "pack" / "two.py").write_text("A = 1\n")
    monkeypatch.setattr(step_keys, "_TASKS", tmp_path)
    return tmp_path


def digest(files: tuple[str, ...] = ("one.py", "pack")) -> str:
    code_digest.cache_clear()
    try:
        return code_digest(files)
    finally:
        code_digest.cache_clear()


CODE = '''"""Doc."""
from tasks.geometry import a, b
from tasks.clip import c
import numpy

CODE_FILES = ("geometry.py",)


def f(x):
    """Adds."""
    return x + 1  # why
'''


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("    return x + 1  # why", "    # another comment\n    return (x\n            + 1)", True),
        ("Adds.", "Adds one.", True),
        ('    """Adds."""\n', "", True),
        ("tasks.geometry import a, b\nfrom tasks.clip import c", "tasks.clip import c\nfrom tasks.x import b, a", True),
        ('("geometry.py",)', '("media/geometry.py", "clip.py")', True),
        ("x + 1", "x + 2", False),
        ("f(x):", "f(x, y=0):", False),
        ("import c", "import d", False),
        ("import c", "import c as d", False),
        ("import numpy", "import torch", False),
        ('"""Adds."""', '"""Adds."""\n    x = "text"', False),
    ],
)
def test_a_changed_statement_counts_and_nothing_else(tasks: Path, old: str, new: str, is_same: bool) -> None:
    (tasks / "one.py").write_text(CODE)
    before = digest()
    assert old in CODE
    (tasks / "one.py").write_text(CODE.replace(old, new))
    assert (digest() == before) is is_same


def test_a_file_that_moves_recomputes_nothing_an_added_one_does(tasks: Path) -> None:
    before = digest()
    shutil.move(tasks / "pack" / "two.py", tasks / "pack" / "four.py")
    shutil.move(tasks / "one.py", tasks / "pack" / "one.py")
    assert digest(("pack",)) == before
    (tasks / "pack" / "three.py").write_text("A = 1\n")
    assert digest(("pack",)) != before


def test_a_file_that_stands_twice_counts_twice_one_that_is_named_twice_once(tasks: Path) -> None:
    before = digest(("pack",))
    assert digest(("pack", "pack/two.py")) == before
    shutil.copy(tasks / "pack" / "two.py", tasks / "pack" / "copy.py")
    twice = digest(("pack",))
    shutil.copy(tasks / "pack" / "two.py", tasks / "pack" / "third.py")
    assert len({before, twice, digest(("pack",))}) == 3


def form(code: str, module: str = "tasks.one", **own: str) -> str:
    return normal_form(code.encode(), module, {name.replace("__", "."): place for name, place in own.items()})


IF = "if C:\n    from tasks.a import f\nelse:\n    from tasks.b import f\n"
TRY = "try:\n    from tasks.a import f\nexcept ImportError:\n    from tasks.b import g as f\nfinally:\n    x = 1\n"


@pytest.mark.parametrize(
    ("code", "other", "is_same"),
    [
        (IF, IF.replace("tasks.b", "tasks.moved"), True),
        (IF, IF.replace("tasks.b import f", "tasks.b import g as f"), False),
        (IF.replace("b import f", "b import g"), IF.replace("a import f", "a import g"), False),
        (IF, IF.replace("if C", "if not C"), False),
        (TRY, TRY.replace("tasks.b", "storage.b"), True),
        (TRY, TRY.replace("g as f", "h as f"), False),
        (TRY, TRY.replace("x = 1", "x = 2"), False),
        ("async def f():\n    'Doc.'\n    return 1\n", "async def f():\n    return 1\n", True),
        ("async def f():\n    return 1\n", "def f():\n    return 1\n", False),
        ("@a\ndef f(): ...\n", "@b\ndef f(): ...\n", False),
        ("@a\ndef f(): ...\n", "def f(): ...\n", False),
        ("from .a import f\n", "from tasks.a import f\n", True),
        ("from . import a\n", "from . import b\n", False),
        ("import tasks.a\n", "import tasks.b\n", False),
        ("def f():\n    from tasks.a import g\n    return g\n", "def f():\n    from tasks.b import h as g\n    return g\n", False),
        ("CODE_FILES = ('a.py',)\n", "CODE_FILES = ('b.py', 'c.py')\n", True),
        ("x = CODE_FILES = f()\n", "x = CODE_FILES = g()\n", False),
        ("CODE_FILES = f()\n", "CODE_FILES = g()\n", False),
        ("match x:\n    case 1:\n        from tasks.a import f\n", "match x:\n    case 1:\n        from tasks.a import g\n", False),
        ("x = None\n", "x = ...\n", False),
        ("return_ = []\n", "return_ = {}\n", False),
        ("x: int\n", "x: int = 1\n", False),
        ("f(1)\n", "f(True)\n", False),
    ],
)  # fmt: skip
def test_normal_form(code: str, other: str, is_same: bool) -> None:
    assert (form(code) == form(other)) is is_same


def test_files_of_one_key_cannot_be_exchanged_unseen() -> None:
    """Both define `f`: a name alone would not say which is meant."""
    both = {"tasks__a": "1", "tasks__b": "2"}
    for one, other in (
        ("from tasks.a import f\n", "from tasks.b import f\n"),
        ("from tasks import a as m\n", "from tasks import b as m\n"),
        ("from .a import f\n", "from .b import f\n"),
    ):
        assert form(one, **both) != form(other, **both)
        assert form(one, tasks__a="1") == form(other, tasks__b="1"), "moved"
    assert form("from .a import f\n", **both) == form("from tasks.a import f\n", **both)
    package = {"tasks__pack__a": "1", "tasks__a": "2"}
    assert form("from .a import f\n", "tasks.pack.__init__", **package) == form(
        "from tasks.pack.a import f\n", **package
    )


def test_a_file_that_imports_another_moves_with_it(tasks: Path) -> None:
    (tasks / "one.py").write_text("from tasks.pack.two import A\n")
    before = digest()
    shutil.move(tasks / "pack" / "two.py", tasks / "pack" / "four.py")
    (tasks / "one.py").write_text("from tasks.pack.four import A\n")
    assert digest() == before


def test_the_place_of_the_package_does_not_count(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest()
    shutil.copytree(tasks, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    monkeypatch.setattr(step_keys, "_TASKS", tmp_path / "copy")
    assert digest() == before


def test_every_file_the_cut_imports_from_tasks_is_in_its_key() -> None:
    """A helper that changes the bytes of a cut but not its key would leave stale objects in every store."""
    from tasks.faces.backend import backend_facts

    root = Path(step_keys.__file__).parent
    for backend in ("dlib", "face_alignment", "mediapipe"):
        named = {*step_keys.CUT_CODE_FILES, *backend_facts(backend).code_files}
        assert _imported(root, set(named)) - _covered(root, named) - _NO_NUMBERS == set()


def test_every_file_an_extractor_imports_from_tasks_is_in_its_key() -> None:
    root = Path(step_keys.__file__).parent
    for name, extractor in features.discover().items():
        named = {f"features/{name}.py", *getattr(extractor, "CODE_FILES", ())}
        assert _imported(root, set(named)) - _covered(root, named) - _NO_NUMBERS == set(), name


# Records, protocols and wiring: they hold no arithmetic.
_NO_NUMBERS = {
    "clip.py",
    "faces/backend.py",
    "features/__init__.py",
    "step_keys.py",
    "faces/__init__.py",
    "__init__.py",
}


def _covered(root: Path, named: set[str]) -> set[str]:
    """Files that the entries stand for; a folder stands for all in it."""
    return {
        file.relative_to(root).as_posix()
        for entry in named
        for file in ((root / entry).rglob("*.py") if (root / entry).is_dir() else [root / entry])
    }


def _imported(root: Path, named: set[str]) -> set[str]:
    """Files of tasks/ that the named ones import, and those import in turn."""
    import ast

    found, pending = set(), sorted(_covered(root, named))
    while pending:
        for node in ast.walk(ast.parse((root / pending.pop()).read_bytes())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("tasks"):
                continue
            base = Path(*node.module.split(".")[1:]) if node.module != "tasks" else Path()
            for candidate in (
                f"{base}.py",
                f"{base}/__init__.py",
                *(f"{base / alias.name}.py" for alias in node.names),
            ):
                file = Path(candidate).as_posix()
                if (root / file).is_file() and file not in found:
                    found.add(file)
                    pending.append(file)
    return found
