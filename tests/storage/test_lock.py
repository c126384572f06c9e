import json
import os
import re
import socket
import time

import pytest

from storage.errors import LockedError, PreflightError
from storage.lock import writer_lock
from tests.storage import processes


@pytest.fixture
def holder(tmp_path):
    """Pid of a process that holds the lock of tmp_path until it is killed."""
    reading, writing = os.pipe()

    def hold() -> None:
        with writer_lock(tmp_path):
            os.write(writing, b"1")
            time.sleep(60)

    pid = processes.start(hold)
    assert os.read(reading, 1) == b"1"
    yield pid
    processes.kill(pid)


def test_second_writer_fails_at_once_and_hears_who_holds_it(tmp_path, holder):
    began = time.monotonic()
    with pytest.raises(LockedError) as caught, writer_lock(tmp_path):
        pytest.fail("two writers")
    assert time.monotonic() - began < 5
    assert re.search(rf"process {holder} on {re.escape(socket.gethostname())} since 20\d\d-", str(caught.value))
    assert str(tmp_path) in str(caught.value)


def test_lock_of_a_killed_writer_is_free_at_once(tmp_path):
    reading, writing = os.pipe()

    def hold() -> None:
        with writer_lock(tmp_path):
            os.write(writing, b"1")
            time.sleep(60)

    pid = processes.start(hold)
    os.read(reading, 1)
    processes.kill(pid)
    assert (tmp_path / "writer.json").exists()
    with writer_lock(tmp_path, wait_s=1):
        assert json.loads((tmp_path / "writer.json").read_bytes())["pid"] == os.getpid()


def test_waiting_writer_gets_it_when_the_first_one_ends(tmp_path):
    reading, writing = os.pipe()

    def hold() -> None:
        with writer_lock(tmp_path):
            os.write(writing, b"1")
            time.sleep(0.3)

    pid = processes.start(hold)
    os.read(reading, 1)
    with writer_lock(tmp_path, wait_s=20):
        pass
    assert processes.wait(pid) == 0


def test_lock_is_released_after_an_error_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), writer_lock(tmp_path):
            raise ZeroDivisionError
    assert not (tmp_path / "writer.json").exists()


def test_same_process_cannot_take_it_twice(tmp_path):
    with writer_lock(tmp_path), pytest.raises(LockedError, match=str(os.getpid())), writer_lock(tmp_path):
        pytest.fail("two writers")


def test_unwritable_store_fails_before_work(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(PreflightError, match="file"), writer_lock(tmp_path / "file" / "store"):
        pytest.fail("locked nothing")


def test_read_only_store_fails_before_work(tmp_path):
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(PreflightError, match="cannot be written"), writer_lock(tmp_path / "store"):
        pytest.fail("locked nothing")
