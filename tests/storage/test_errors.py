import ast
import pickle

import pytest

from storage.errors import REASONS, OutOfSpace, Reason, Rejected, error_text, reason_text
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/data/raw/a.mp4"), "PermissionError: Permission denied"),
        (RuntimeError("cannot read /data/raw/a b.mp4"), "RuntimeError: cannot read ...a b.mp4"),
        (RuntimeError("worker tcp://127.0.0.1:4711 died\nsecond line"), "RuntimeError: worker ... died"),
        (RuntimeError("task cut-3f2a9c41-77aa-4b1c-9d10-aabbccddeeff failed"), "RuntimeError: task cut-... failed"),
        (ValueError("expected 3/4 of it"), "ValueError: expected 3/4 of it"),
        (ValueError(), "ValueError: "),
    ],
)
def test_stored_errors_say_what_not_where(error, text):
    assert error_text(error) == text


@pytest.mark.parametrize("error", [Rejected(Reason.NO_FACE, "none"), OutOfSpace("full")])
def test_errors_travel_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_step_a_meaning_and_what_to_change(reason):
    text = REASONS[reason]
    assert set(text.step.split(", ")) <= {"inventory", "cut", "publish"}
    for sentence in (text.meaning, text.change):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert "\n" not in sentence
    assert reason_text(reason.value) is text


def test_a_code_that_this_version_does_not_have_has_no_text():
    assert (reason_text(""), reason_text("DECODER_CRASH")) == (None, None)


def test_settings_that_a_reason_names_exist():
    from storage.catalog import AudioRule, ClipRule, FaceRule, LimitRule

    blocks = {"limits": LimitRule, "clips": ClipRule, "audio": AudioRule, "face": FaceRule}
    words = [word.strip(",.:;") for text in REASONS.values() for word in f"{text.meaning} {text.change}".split()]
    named = [word.split(".") for word in words if word.partition(".")[0] in blocks and "." in word]
    assert len(named) > 10
    assert [name for name in named if name[1] not in blocks[name[0]].model_fields] == []


def test_every_reason_is_given_somewhere_and_its_step_is_right():
    """A mention that only compares (`is Reason.X`) gives nothing. What reads media files runs in the step `cut`."""
    folders = {"inventory": ["inventory.py"], "cut": ["cut.py", "media"], "publish": ["publish.py"]}
    given: dict[str, set[str]] = {reason.value: set() for reason in Reason}
    for step, names in folders.items():
        for path in (REPOSITORY / "tasks" / name for name in names):
            for file in [path] if path.is_file() else path.rglob("*.py"):
                for reason in _given_in(ast.parse(file.read_text(encoding="utf-8"))):
                    given[reason].add(step)
    assert given == {reason.value: set(text.step.split(", ")) for reason, text in REASONS.items()}


def _given_in(tree: ast.Module) -> set[str]:
    compared = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Compare) for inner in ast.walk(node)}
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Reason" and id(node) not in compared
    }
