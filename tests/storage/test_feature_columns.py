"""Fields are found by column name, and the errors say what there is."""

import pytest

from storage.errors import ConfigError
from storage.feature_columns import find_column
from storage.tables import Column

COLUMNS = {
    "mel": (Column("mel", "float32", ("T80", 80)),),
    "bbox": (Column("bbox", "float32", ("N", 4)), Column("valid", "bool", ("N",))),
    "pose": (Column("valid", "bool", ("N",)),),
}


def test_a_column_is_found_by_its_name_or_with_its_extractor() -> None:
    assert find_column(COLUMNS, "bbox") == ("bbox", COLUMNS["bbox"][0])
    assert find_column(COLUMNS, "bbox.bbox") == ("bbox", COLUMNS["bbox"][0])
    assert find_column(COLUMNS, "pose.valid") == ("pose", COLUMNS["pose"][0])


def test_a_name_of_two_extractors_must_be_qualified() -> None:
    with pytest.raises(ConfigError, match=r"write bbox\.valid or pose\.valid"):
        find_column(COLUMNS, "valid")


@pytest.mark.parametrize("name", ["hubert", "mel.valid", "nothing.mel"])
def test_an_unknown_field_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"mel: mel; bbox: bbox, valid; pose: valid"):
        find_column(COLUMNS, name)
