"""Enhancers are found among installed packages; without one there is one line."""

from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from storage.errors import ConfigError
from tasks import enhance


def doubled(picture: np.ndarray) -> np.ndarray:
    return picture.repeat(2, 0).repeat(2, 1)


def load_doubled(device: str):
    assert device == "cpu"
    return doubled


def test_an_installed_enhancer_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoints([EntryPoint("plain", f"{__name__}:load_doubled", enhance.GROUP)])
    monkeypatch.setattr(enhance, "entry_points", lambda group: offered.select(group=group))
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(enhance.load_enhancer("cpu")(picture), doubled(picture))


def test_without_one_the_message_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"install a package that offers an entry point 'talkset\.enhancers'"):
        enhance.load_enhancer("cpu")
