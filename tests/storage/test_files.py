import errno
import os
import resource
from pathlib import Path

import pytest

from storage import files
from storage.errors import OutOfSpace
from tests.storage import processes


def test_write_is_whole_and_new(tmp_path):
    files.write_bytes_durable(tmp_path / "a", b"123")
    assert (tmp_path / "a").read_bytes() == b"123"
    with pytest.raises(FileExistsError):
        files.write_bytes_durable(tmp_path / "a", b"456")


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data)[:3]))
    files.write_bytes_durable(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_replace_keeps_old_content_when_a_step_fails(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.replace_durable(path, b"old")
    for name in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, _failing(errno.EIO))
            with pytest.raises(OSError):
                files.replace_durable(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    files.replace_durable(path, b"new")
    assert path.read_bytes() == b"new"


def test_create_exclusive_has_one_winner(tmp_path):
    path = tmp_path / "000001.json"

    def claim(number: int) -> None:
        try:
            files.create_exclusive(path, b"%d" % number * 1000)
        except FileExistsError:
            os._exit(7)

    children = [processes.start(lambda number=number: claim(number)) for number in range(6)]
    assert sorted(processes.wait(child) for child in children) == [0, 7, 7, 7, 7, 7]
    assert len(set(path.read_bytes())) == 1
    assert len(path.read_bytes()) == 1000
    assert list(tmp_path.iterdir()) == [path]


def test_move_new_never_replaces(tmp_path):
    for name in ("ours", "theirs"):
        files.make_dir(tmp_path / name)
        (tmp_path / name / "file").write_text(name)
    assert not files.move_new(tmp_path / "ours", tmp_path / "theirs")
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"
    assert files.move_new(tmp_path / "ours", tmp_path / "new")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_is_out_of_space_and_leaves_nothing(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "write", _failing(number))
    for write in (files.replace_durable, files.create_exclusive):
        with pytest.raises(OutOfSpace, match="a"):
            write(tmp_path / "a", b"data")
        assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(OSError) as caught:
        files.write_bytes_durable(tmp_path / "a", b"data")
    assert caught.value.errno == errno.EIO


def test_file_size_limit_of_the_system_is_out_of_space(tmp_path):
    def write_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        with pytest.raises(OutOfSpace):
            files.replace_durable(tmp_path / "a", bytes(1 << 20))
        assert list(tmp_path.iterdir()) == []

    assert processes.run(write_much) == 0


def test_torch_says_full_disk_in_its_own_words(tmp_path):
    torch = pytest.importorskip("torch")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OutOfSpace), files.out_of_space(tmp_path), Path("/dev/full").open("wb") as stream:
        torch.save({"weights": torch.zeros(1_000_000)}, stream)


def test_value_errors_are_not_a_full_disk(tmp_path):
    with pytest.raises(ValueError, match="mine"), files.out_of_space(tmp_path):
        raise ValueError("mine")
    assert not files.is_out_of_space(RuntimeError("CUDA error"))


def _failing(number: int):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return fail
