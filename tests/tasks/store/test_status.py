"""Status: what a store holds, and who really writes to it."""

import json
import os
import socket
from pathlib import Path

import pytest

from storage.errors import ConfigError
from storage.lock import writer_lock
from tasks.store.status import store_status
from tests.storage import processes
from tests.synthetic_store import build_store


def test_status_counts_what_is_there(tmp_path: Path) -> None:
    first = build_store(tmp_path, clips_per_subject=1, with_media=False)
    second = build_store(tmp_path, clips_per_subject=2, with_media=False)
    answer = store_status(tmp_path)
    assert (answer.dataset, answer.writer) == ("synthetic", None)
    assert [line.id for line in answer.snapshots] == [first.id, second.id]
    objects = {ref.key: ref.num_bytes for snapshot in (first, second) for ref in snapshot.body.objects()}
    assert (answer.objects, answer.bytes) == (len(objects), sum(objects.values()))


def test_the_writer_is_named_while_it_lives(tmp_path: Path) -> None:
    build_store(tmp_path, with_media=False)
    with writer_lock(tmp_path):
        assert store_status(tmp_path).writer.pid == os.getpid()
    assert store_status(tmp_path).writer is None


def test_a_killed_writer_is_not_taken_for_a_living_one(tmp_path: Path) -> None:
    build_store(tmp_path, with_media=False)
    pid = processes.start(lambda: None)
    processes.wait(pid)
    (tmp_path / "writer.json").write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "start": "t"}))
    assert store_status(tmp_path).writer is None
    (tmp_path / "writer.json").write_text(json.dumps({"pid": pid, "host": "another", "start": "t"}))
    assert store_status(tmp_path).writer.host == "another"


def test_a_folder_that_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no talkset store"):
        store_status(tmp_path)
