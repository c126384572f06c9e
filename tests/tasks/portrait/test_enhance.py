"""An enhancer of an installed package comes before the one that is built in (tests of that: test_onnx_enhancer)."""

from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from tasks.portrait import enhance

OFFERED = (("zoom", "none"), ("plain", "load_doubled"))


def doubled(image: np.ndarray) -> np.ndarray:
    return image.repeat(2, 0).repeat(2, 1)


def load_doubled(device: str):
    assert device == "cpu"
    return doubled


def offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if packages offered two enhancers, of which the first by name works."""
    points = [EntryPoint(name, f"{__name__}:{function}", enhance.GROUP) for name, function in OFFERED]
    monkeypatch.setattr(enhance, "entry_points", lambda group: EntryPoints(points).select(group=group))


def test_the_first_by_name_of_the_installed_enhancers_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(enhance.load_enhancer("cpu")(image), doubled(image))
