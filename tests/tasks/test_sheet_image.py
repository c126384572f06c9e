"""The contact sheet as one picture: every tile is the frame it stands for, with its landmarks on it."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from storage.snapshot import Snapshot
from tasks.report.contact_sheet import contact_sheet
from tasks.report.sheet_image import COLUMNS, NUM_SHOWN, TILE_PX, sheet_image
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("store"))


def decoded(uri: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8), cv2.IMREAD_COLOR)


def test_tiles_are_the_frames_of_the_sheet(snapshot: Snapshot) -> None:
    uri = sheet_image(snapshot)
    assert uri is not None
    image = decoded(uri)
    pictures = contact_sheet(snapshot)["kept"]
    shown = min(len(pictures), NUM_SHOWN)
    assert image.shape == (-(-shown // COLUMNS) * TILE_PX, min(shown, COLUMNS) * TILE_PX, 3)
    frame = cv2.resize(decoded(pictures[0].image), (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
    difference = np.abs(image[:TILE_PX, :TILE_PX].astype(int) - frame).max(axis=2)
    assert np.median(difference) < 8
    points = np.array([pair.split(",") for stroke in pictures[0].strokes for pair in stroke.points.split()], float)
    x, y = np.rint(points * TILE_PX / pictures[0].size_px).astype(int).clip(0, TILE_PX - 1).T
    assert np.mean(difference[y, x] > 30) > 0.6


def test_nothing_kept_gives_no_picture(tmp_path: Path) -> None:
    empty = build_store(tmp_path, thresholds={"quality_face_size_px": {"min": 1e6}})
    assert empty.body.counts["clips"]["kept"] == 0
    assert sheet_image(empty) is None
