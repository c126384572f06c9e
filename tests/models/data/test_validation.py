"""A split 'val' in which nothing fits is no error; anything else that goes wrong is."""

import pytest

from models.data.validation import validation_set
from storage.errors import ConfigError, StoreCorrupt


def test_it_is_what_was_made_or_none_where_nothing_fits() -> None:
    def empty() -> int:
        raise ConfigError("no clip fits")

    assert validation_set(lambda: 3) == 3
    assert validation_set(empty) is None


def test_other_failures_are_not_hidden() -> None:
    def damaged() -> int:
        raise StoreCorrupt("x")

    with pytest.raises(StoreCorrupt):
        validation_set(damaged)
