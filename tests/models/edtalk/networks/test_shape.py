import pytest
from pydantic import ValidationError

from models.edtalk.networks.shape import Shape
from storage.errors import ConfigError


def test_sides_and_channels_of_the_published_size() -> None:
    shape = Shape()
    assert shape.sides_px == (8, 16, 32, 64, 128, 256)
    assert shape.channels_down == (64, 128, 256, 512, 512, 512, 512)


def test_a_narrow_network_has_a_share_of_the_channels_and_at_least_one() -> None:
    assert Shape(width=1 / 16).channels_down == (4, 8, 16, 32, 32, 32, 32)
    assert Shape(width=1 / 1000).channels_down == (1,) * 7
    assert Shape(size_px=8).sides_px == (8,)


@pytest.mark.parametrize(
    ("fields", "word"), [({"size_px": 4}, "power of two"), ({"size_px": 96}, "96"), ({"latent_dim": 35}, "36")]
)
def test_impossible_sizes_are_one_clear_error(fields: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Shape(**fields)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        Shape(heigth=3)  # pyright: ignore[reportCallIssue]
