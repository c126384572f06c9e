"""Options of the command that need no networks: expressions named over time, files that are read and written."""

from pathlib import Path

import numpy as np
import pytest

from models.edtalk.inference.options import Keyframe, Options, parse_keyframes
from storage.errors import ConfigError


def test_files_that_are_read_and_written(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 10)))
    keyframes = f"0:{tmp_path}/a.npy, 1:happy"
    given = Options(mouth="m.mp4", pose="own", expression=keyframes, save_codes=tmp_path / "codes")
    assert given.input_files() == [Path("m.mp4"), Path("own"), tmp_path / "a.npy"]
    assert [path.name for path in given.output_files()] == ["mouth.npy", "pose.npy", "expression.npy"]
    assert Options(expression="generated+happy").input_files() == []
    assert Options(expression=str(tmp_path / "a.npy")).input_files() == [tmp_path / "a.npy"]


def test_rules_of_length_are_about_files() -> None:
    given = Options(mouth="m.mp4", mouth_length="mirror", pose="generated", pose_length="mirror", expression="0:happy")
    assert [given.length_rule(part) for part in ("mouth", "pose", "expression")] == ["mirror", "hold", "hold"]
    assert Options(expression="e.mp4").length_rule("expression") == "mirror-drop-tail"


def test_keyframes_are_read() -> None:
    assert parse_keyframes("happy") == (Keyframe(0, "happy", 1),)
    assert parse_keyframes("happy*0.5") == (Keyframe(0, "happy", 0.5),)
    found = parse_keyframes(" 2.5: sad * 1.5 ,0:happy,4:own")
    assert found == (Keyframe(0, "happy", 1), Keyframe(2.5, "sad", 1.5), Keyframe(4, "own", 1))


@pytest.mark.parametrize(
    "text", ["", "x:happy", "1:", "happy*much", "-1:sad", "nan:sad", "0:happy,,1:sad", "1:sad*inf"]
)
def test_what_is_no_keyframe_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="write NAME, NAME"):
        parse_keyframes(text)


def test_two_keyframes_at_one_time_are_refused() -> None:
    with pytest.raises(ConfigError, match="same time"):
        parse_keyframes("1:sad,1:happy")
