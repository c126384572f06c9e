"""Names: every form leads explain, lineage and takedown to the same source; a miss has a guess, several are listed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tasks.store.explain import explain
from tasks.store.lineage import lineage
from tasks.store.lineage.of_source import SourceAnswer
from tasks.store.names import fits, nearest, path_in_root
from tasks.store.takedown import list_takedowns, put_back, take_down
from tests.run_records import finished_run
from tests.tasks.store.test_takedown import FIRST, Tree, id_of, sha_of

TALK = "talks/RD_Radio1.mp4"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Eight takes whose base names are alike, and one talk whose base name is its own."""
    tree = Tree(tmp_path).fill()
    tree.put(TALK)
    tree.refresh()
    return tree


def explained(tree: Tree, name: str) -> tuple[str, ...]:
    return tuple(source.path for source in explain(Snapshot.open(tree.store), name).sources)


def traced(tree: Tree, name: str) -> tuple[str, ...]:
    answer = lineage(tree.store, name)
    assert isinstance(answer, SourceAnswer)
    return tuple(path for source in answer.sources for path in source.paths)


def taken_down(tree: Tree, name: str) -> tuple[str, ...]:
    return take_down(tree.store, name, "asked").paths


def restored(tree: Tree, name: str) -> tuple[str, ...]:
    """Takedown undone, by the same name."""
    take_down(tree.store, TALK, "asked")
    entry = put_back(tree.store, name).put_back
    assert list_takedowns(tree.store).takedowns == ()
    return (entry.path,)


Command = Callable[[Tree, str], tuple[str, ...]]
COMMANDS = (explained, traced, taken_down, restored)
FORMS: dict[str, Callable[[Tree], str]] = {
    "path inside the root": lambda tree: TALK,
    "base name": lambda tree: "RD_Radio1.mp4",
    "full path": lambda tree: str(tree.root / TALK),
    "full path from another folder": lambda tree: f"some/where/{tree.root.name}/{TALK}",
    "base name of its clips": lambda tree: "RD_Radio1",
    "clip name": lambda tree: "RD_Radio1#1",
    "clip key": lambda tree: f"{id_of(TALK)}.0001",
    "source id": lambda tree: id_of(TALK),
    "digits of the id": lambda tree: id_of(TALK)[:8],
    "sha256": lambda tree: sha_of(TALK),
    "digits of the sha256": lambda tree: sha_of(TALK)[:8],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same_to_every_command(tree: Tree, command: Command, form: str) -> None:
    assert command(tree, FORMS[form](tree)) == (TALK,)


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_a_full_path_is_read_by_the_longest_path_that_it_ends_in(tree: Tree, command: Command) -> None:
    tree.put("RD_Radio1.mp4/RD_Radio1.mp4")
    tree.refresh()
    assert command(tree, f"/gone/{TALK}") == (TALK,)


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_a_file_with_the_content_of_a_source_is_that_source(tree: Tree, tmp_path: Path, command: Command) -> None:
    copy = tmp_path / "sent" / FIRST
    copy.parent.mkdir(parents=True)
    copy.write_bytes(TALK.encode())
    assert command(tree, str(copy)) == (TALK,), "what it contains counts before what it is called"


def test_a_file_that_changed_since_the_refresh_is_not_taken_down_by_guess(tree: Tree) -> None:
    path = tree.put(TALK, b"recorded again")
    with pytest.raises(ConfigError, match=rf"is not the file that snapshots have of '{TALK}'"):
        take_down(tree.store, str(path), "asked")
    assert explained(tree, str(path)) == (TALK,)


@pytest.mark.parametrize("command", COMMANDS[:3])
@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("RD_Radoi1.mp4", "'RD_Radio1.mp4'"), ("talk/RD_Radio1.mp4", f"'{TALK}'"), ("RD_Radio1#2", "'RD_Radio1#1'"),
        (FIRST.replace("angry", "angri"), f"'{FIRST}'"),
    ],
)  # fmt: skip
def test_a_miss_names_the_nearest(tree: Tree, command: Command, name: str, guess: str) -> None:
    with pytest.raises(ConfigError, match="did you mean") as caught:
        command(tree, name)
    assert guess in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS[:3])
@pytest.mark.parametrize("name", ["", "nobody at all", "\x00", "x" * 5000, "/", "\udce9", "abcdef"])
def test_a_miss_without_anything_near_has_no_guess(tree: Tree, command: Command, name: str) -> None:
    with pytest.raises(ConfigError, match="is called") as caught:
        command(tree, name)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_several_are_listed_in_one_line(tree: Tree, command: Command) -> None:
    with pytest.raises(ConfigError, match="can mean") as caught:
        command(tree, "001.mp4")
    assert all(f"S00{subject}/video/front" in str(caught.value) for subject in range(4))
    assert "\n" not in str(caught.value)


def test_a_run_is_guessed_too(tree: Tree) -> None:
    run = finished_run(Snapshot.open(tree.store), "base")
    with pytest.raises(ConfigError, match=f"did you mean '{run.id}'"):
        lineage(tree.store, f"{run.id[:-1]}x")


def test_a_clip_that_was_dropped_is_found_and_shown_alone(tmp_path: Path) -> None:
    from tests.synthetic_store import build_store

    snapshot = build_store(tmp_path, with_media=False, with_trouble=True)
    (source,) = explain(snapshot, "RD_Radio1#3").sources
    assert (source.path, [clip.reason for clip in source.clips]) == (TALK, ["TOO_SHORT"])
    (whole,) = explain(snapshot, "RD_Radio1").sources
    assert len(whole.clips) == 3


@pytest.mark.parametrize(
    ("name", "is_whole"),
    [
        ("a/1.mp4", True), ("1.mp4", False), ("a" * 64, True), ("a" * 6, False), ("b" * 7, False), ("a" * 5, None),
        ("mp4", None), ("", None), ("c" * 6, None), ("name", True), ("nam", None),
    ],
)  # fmt: skip
def test_how_a_name_fits(name: str, is_whole: bool | None) -> None:
    assert fits(name, "a/1.mp4", ("a" * 64, "b" * 20, ""), ("name",)) is is_whole


def test_nearest_of_many_is_found_quickly() -> None:
    names = [f"M{subject:03d}#angry#level_1#{take:03d}" for subject in range(300) for take in range(300)]
    assert nearest("M123#angri#level_1#045", names)[0] == "M123#angry#level_1#045"


def test_only_a_longer_path_is_read_as_a_full_path(tree: Tree) -> None:
    snapshots = [Snapshot.open(tree.store)]
    assert [path_in_root(name, snapshots) for name in (TALK, f"x/{TALK}", f"x{TALK}", "RD_Radio1.mp4", "")] == [
        "", TALK, "", "", "",
    ]  # fmt: skip
