"""The synthetic store with every feature that needs no weights, and with clips that are hard to export."""

from dataclasses import replace
from pathlib import Path

import pytest

from storage.records import Source
from storage.snapshot import Snapshot
from tests import synthetic_store
from tests.synthetic_store import Take, build_store, raw_source

EXTRACTORS = ("mel", "mel50", "landmarks", "bbox", "face3d", "quality", "sync")
HARD_NAME = "talks/Ünsafe: a.b"
FACELESS = "S000#sad#level_1#009"


def build_rich_store(path: Path) -> Snapshot:
    """Three subjects with two takes, a talk of two segments, one with an unsafe name, and a clip without any face."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_store, "EXTRACTORS", EXTRACTORS)
        patch.setattr(synthetic_store, "troubled_takes", _hard_takes)
        patch.setattr(synthetic_store, "hopeless_sources", lambda twin, seed: ((), {}))
        return build_store(path, num_frames=(25, 30, 37), with_trouble=True, thresholds={})


def _hard_takes(seed: int) -> list[Take]:
    talk = Source(
        "talks/RD_Radio1.mp4", b"talks/RD_Radio1.mp4".hex(), "talks", "RD_Radio1", "RD_Radio1", {}, 1, "1" * 64, 2
    )
    hard = replace(talk, path="talks/hard.mp4", path_hex=b"talks/hard.mp4".hex(), name=HARD_NAME, sha256="2" * 64)
    neutral = raw_source("S000", "neutral", 7, 26, seed)
    return [
        Take(talk, 25, num_windows=3),
        Take(hard, 25, num_windows=2),
        Take(neutral, 26),
        Take(raw_source("S000", "sad", 9, 25, seed), 25, missing=1.0),
    ]
