"""Output files: refused before anything is computed, written whole or not at all."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from flows.output_files import check_outputs, save_array, writable
from storage import files
from storage.errors import ConfigError, OutOfSpace, PreflightError


def test_folders_are_made_and_old_files_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "old.npy").write_bytes(b"old")
    check_outputs([tmp_path / "a" / "b" / "new.mp4", tmp_path / "old.npy"], [tmp_path / "absent", Path("x" * 5000)])
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "old.npy").read_bytes() == b"old"


@pytest.mark.parametrize("path", ["in.mp4", "link.mp4", "a/../in.mp4"])
def test_an_input_is_an_output_by_no_path(tmp_path: Path, path: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "in.mp4").write_bytes(b"video")
    (tmp_path / "link.mp4").symlink_to("in.mp4")
    with pytest.raises(ConfigError, match=r"it is read \(.*in\.mp4\); name another file"):
        check_outputs([tmp_path / "new.npy", tmp_path / path], [tmp_path / "other", tmp_path / "in.mp4"])


@pytest.mark.parametrize(("path", "message"), [("a", "is a folder"), ("file/out.mp4", "is no folder")])
def test_places_that_cannot_be_are_told(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=message):
        check_outputs([tmp_path / path])


def test_permission_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PreflightError, match="no permission to write"):
        check_outputs([tmp_path / "out.mp4"])


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, OutOfSpace), (errno.EIO, PreflightError)])
def test_what_the_system_says_is_one_line(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"out\.mp4") as found, writable(tmp_path / "out.mp4"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(found.value)


def test_an_array_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "codes.npy"
    save_array(path, np.arange(6.0).reshape(2, 3))
    assert np.array_equal(np.load(path), [[0, 1, 2], [3, 4, 5]])

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "write_bytes_durable", full)
    with pytest.raises(OutOfSpace):
        save_array(path, np.zeros(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["codes.npy"]
    assert np.load(path).shape == (2, 3)
