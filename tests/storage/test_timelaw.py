"""The time law: per-frame windows of a mel against EDTalk's rule written out literally; no other file holds a rate."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storage.timelaw import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, axis_length, mel_window_starts, mel_windows


def edtalk_windows(mel: np.ndarray, num_frames: int) -> np.ndarray:
    """(T, 1, 80, 16), frame by frame, column by column: start int(80 (i - 2) / 25), indices held at the ends."""
    out = np.empty((num_frames, 1, 80, 16), mel.dtype)
    for frame in range(num_frames):
        start = int(80 * (frame - 2) / 25.0)
        for column in range(16):
            out[frame, 0, :, column] = mel[min(max(start + column, 0), len(mel) - 1)]
    return out


def test_first_starts() -> None:
    assert mel_window_starts(9).tolist() == [-6, -3, 0, 3, 6, 9, 12, 16, 19]


def test_starts_are_the_float_rule_over_hours() -> None:
    assert mel_window_starts(200_000).tolist() == [int(80.0 * (i - 2) / 25.0) for i in range(200_000)]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 24, 124, 125])
def test_windows_are_edtalks(num_frames: int) -> None:
    mel = np.random.default_rng(0).normal(size=(axis_length("T80", num_frames), 80)).astype(np.float32)
    windows = mel_windows(mel, num_frames)
    assert windows.shape == (num_frames, 16, 80)
    assert windows.dtype == mel.dtype
    np.testing.assert_array_equal(windows.transpose(0, 2, 1)[:, None], edtalk_windows(mel, num_frames))


# ---- one home

ROOT = Path(__file__).parents[2]
RATES = (FPS, SAMPLES_PER_FRAME, SAMPLE_RATE_HZ)


def _bare_rates(tree: ast.AST) -> Iterator[int]:
    """Lines on which a rate of the time law is written as a number: in arithmetic, as `rate_hz=`, or under a name of a
    rate. A number of frames that happens to be 25 is none.
    """
    for node in ast.walk(tree):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.BinOp):
            found = [node.left, node.right]
        elif isinstance(node, ast.keyword) and node.arg and node.arg.endswith(("_hz", "_fps", "fps")):
            found = [node.value]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(name, ast.Name) and name.id.lower().endswith(("_hz", "fps")) for name in targets):
                found = [node.value]
        for value in found:
            if isinstance(value, ast.Constant) and not isinstance(value.value, bool) and value.value in RATES:
                yield value.lineno


@pytest.mark.parametrize(
    ("code", "is_bare"),
    [
        ("x * 25", True), ("25 / x", True), ("n // 640", True), ("RATE_HZ = 16000", True), ("f(rate_hz=25.0)", True),
        ("fps: int = 25", True), ("x * FPS", False), ("detect_every = 25", False), ("[25, 640]", False),
    ],
)  # fmt: skip
def test_bare_rates_are_seen(code: str, is_bare: bool) -> None:
    assert bool(list(_bare_rates(ast.parse(code)))) is is_bare


@pytest.mark.parametrize("package", ["flows", "tasks", "models", "storage"])
def test_every_rate_is_taken_from_the_time_law(package: str) -> None:
    files = [file for file in (ROOT / package).rglob("*.py") if file != ROOT / "storage" / "timelaw.py"]
    trees = {file: ast.parse(file.read_bytes()) for file in files}
    assert [f"{file.relative_to(ROOT)}:{line}" for file, tree in trees.items() for line in _bare_rates(tree)] == []
