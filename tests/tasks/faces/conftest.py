"""Frames of the real clips, and the default backend, loaded once."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.faces import dlib
from tests.conftest import REPOSITORY

Grays = Callable[..., list[NDArray[np.uint8]]]

FACE_CLIPS = (
    "head_shoulders_450_25fps.mp4",
    "cropped_256_25fps_60s.mp4",
    "cropped_256_30fps_noaudio.mp4",
    "portrait_1080x1920_30fps_hevc.mp4",
    "cropped_256_24fps_fastmotion.mov",
    "surprise_512_25fps_3s.mp4",
)


@pytest.fixture(scope="session")
def grays(media: Path) -> Grays:
    """`grays(name, count, first=0)`: luma of the first frames of a clip, each uint8 [H, W], as the file has them."""

    @lru_cache(maxsize=16)
    def read(name: str, count: int, first: int = 0) -> list[NDArray[np.uint8]]:
        with av.open(str(media / name)) as container:
            frames = (frame for i, frame in enumerate(container.decode(video=0)) if i >= first)
            return [_luma(frame) for _, frame in zip(range(count), frames, strict=False)]

    return read


def _luma(frame: av.VideoFrame) -> NDArray[np.uint8]:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width].copy()


@pytest.fixture(scope="session")
def backend() -> dlib.DlibBackend:
    return dlib.load()


@pytest.fixture
def weights_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of optional weight files, made known to the code; skipped with the reason when there is none."""
    folder = Path(os.environ.get("TALKSET_WEIGHTS", REPOSITORY.parent / "shared" / "weights"))
    if not folder.is_dir():
        pytest.skip(f"no weights: {folder} is absent (set TALKSET_WEIGHTS)")
    monkeypatch.setenv("TALKSET_WEIGHTS", str(folder))
    return folder
