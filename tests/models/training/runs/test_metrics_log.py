"""Figures and pictures on disk: one line each, none twice after a resume, whole after a kill."""

import math
from contextlib import closing
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import pytest
import torch

from models.training.runs.metrics_log import MetricsLog, newest_figures, read_metrics
from storage.errors import OutOfSpace
from tests.models.training.runs.test_checkpoint import small_disk


def test_lines_of_a_killed_session_are_replaced_by_those_of_the_next(tmp_path: Path) -> None:
    with closing(MetricsLog(tmp_path, 0)) as log:
        for step in (10, 20, 30):
            log.scalars("train", step, 0, {"loss": 1 / step})
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "train", "st')
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]
    with closing(MetricsLog(tmp_path, 20)) as log:
        log.scalars("train", 30, 1, {"loss": 0.5})
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["epoch"], line["values"]["loss"]) for line in lines] == [
        (10, 0, 0.1), (20, 0, 0.05), (30, 1, 0.5),
    ]  # fmt: skip
    assert read_metrics(tmp_path / "nowhere") == []


def test_newest_figures_are_those_of_validation_if_there_are_any(tmp_path: Path) -> None:
    with closing(MetricsLog(tmp_path, 0)) as log:
        assert newest_figures(tmp_path) == {}
        log.scalars("train", 1, 0, {"loss": 2.0})
        assert newest_figures(tmp_path) == {"train_loss": 2.0}
        log.scalars("val", 1, 0, {"error": 3.0, "odd": math.nan})
        log.scalars("train", 2, 0, {"loss": 1.0})
    assert newest_figures(tmp_path) == {"error": 3.0}
    assert read_metrics(tmp_path)[1]["values"] == {"error": 3.0, "odd": None}


def test_a_picture_comes_back_with_its_colours(tmp_path: Path) -> None:
    image = torch.zeros(3, 4, 6)
    image[0, :, :3], image[2, 0] = 1.0, 0.5
    with closing(MetricsLog(tmp_path, 0)) as log:
        log.image(7, image)
    bgr = cv2.imread(str(tmp_path / "pictures/00000007.png"))
    assert bgr is not None
    stored = torch.from_numpy(bgr[:, :, ::-1].copy()).permute(2, 0, 1)
    assert torch.equal(stored, (image * 255).round().byte())


def test_a_full_disk_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", MagicMock())  # its thread would die of it, too
    with closing(MetricsLog(tmp_path, 0)) as log:
        log.scalars("train", 1, 0, {"loss": 2.0})
        with small_disk(100), pytest.raises(OutOfSpace, match=r"metrics\.jsonl"):
            log.scalars("train", 2, 0, {"loss": 2.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
