"""One training per GPU, by the GPU's own name; a killed holder frees it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from models.training.runs import locks
from models.training.runs.locks import gpu_lock
from storage.errors import LockedError
from tests.conftest import REPOSITORY

HOLDER = """
import sys, tempfile, torch
from models.training.runs import locks
tempfile.tempdir = sys.argv[1]
locks.gpu_uuid = lambda device: "GPU-fake-1"
with locks.gpu_lock(torch.device("cuda:1")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def fake_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda:0 and cuda:1 are two names of one GPU, as CUDA_VISIBLE_DEVICES makes them; cuda:2 is another."""
    names = {0: "GPU-fake-1", 1: "GPU-fake-1", 2: "GPU-fake-2"}
    monkeypatch.setattr(locks, "gpu_uuid", lambda device: names[device.index])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_gpu_is_held_under_any_number_and_freed_by_kill_9(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=r"cuda:0 \(GPU-fake-1\) is used by another training"):
        gpu_lock(torch.device("cuda:0")).__enter__()
    with gpu_lock(torch.device("cuda:2")):
        pass
    process.kill()
    process.communicate()
    with gpu_lock(torch.device("cuda:0")):
        assert (tmp_path / "talkset-gpu-GPU-fake-1.lock").exists()
        with pytest.raises(LockedError):
            gpu_lock(torch.device("cuda:1")).__enter__()


def test_the_cpu_is_free_to_all(tmp_path: Path) -> None:
    with gpu_lock(torch.device("cpu")), gpu_lock(torch.device("cpu")):
        assert list(tmp_path.glob("talkset-gpu*")) == []
