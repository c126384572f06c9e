import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storage.errors import OutOfSpace, StoreCorrupt
from storage.tables import (
    Column,
    columns_of,
    read_row,
    read_schema,
    read_table,
    schema_of,
    to_numpy,
    write_scalars,
    write_table,
)

COLUMNS = (
    Column("clip", "string", doc="its name"),
    Column("landmarks", "float32", ("N", 68, 2), "px", 25.0, "iBUG-68"),
    Column("hubert", "float16", ("2N", 4), rate_hz=50.0),
    Column("valid", "bool", ("N",)),
    Column("words", "string", ("W",)),
    Column("pose", "float64", (4, 4)),
    Column("is_kept", "bool"),
    Column("offset", "int64"),
    Column("score", "float16"),
    Column("rgb", "uint8", (3,)),
)


def make_rows(lengths, seed=0):
    noise = np.random.default_rng(seed)
    for number, n in enumerate(lengths):
        landmarks = noise.normal(size=(n, 68, 2)).astype(np.float32)
        landmarks[::3] = np.nan
        yield {
            "clip": f"RD_Radio1_000#{number} é",
            "landmarks": landmarks,
            "hubert": noise.normal(size=(2 * n, 4)).astype(np.float16),
            "valid": ~np.isnan(landmarks[:, 0, 0]),
            "words": ["", "a\0", "ü"][: number % 4],
            "pose": noise.normal(size=(4, 4)),
            "is_kept": bool(number % 2),
            "offset": 2**62 + number,
            "score": 0.5,
            "rgb": noise.integers(0, 256, 3, dtype=np.uint8),
        }


def same(stored, given_value, column: Column) -> bool:
    expected = np.asarray(given_value, dtype=object if column.dtype == "string" else column.dtype)
    stored = np.asarray(stored, dtype=expected.dtype)
    if column.dtype == "string":
        return stored.shape == expected.shape and stored.tolist() == expected.tolist()
    return stored.shape == expected.shape and stored.tobytes() == expected.tobytes()


def test_round_trip_is_exact_to_the_bit(tmp_path):
    lengths = [3, 125, 0, 1, 7, 9, 2, 2, 4, 5, 0, 1, 30, 1, 1, 1, 8]
    write_table(tmp_path / "a.parquet", make_rows(lengths), COLUMNS, {"snapshot": "7"})
    table = read_table(tmp_path / "a.parquet")
    assert table.num_rows == len(lengths)
    for number, row in enumerate(make_rows(lengths)):
        one = read_row(tmp_path / "a.parquet", number)
        assert list(one) == [column.name for column in COLUMNS]
        for column in COLUMNS:
            assert same(one[column.name], row[column.name], column), (number, column.name)
            assert same(to_numpy(table, column.name, number), row[column.name], column)
    assert type(one["clip"]) is str
    assert type(one["is_kept"]) is bool
    assert one["landmarks"].flags.writeable
    assert same(to_numpy(table, "landmarks", -1), row["landmarks"], COLUMNS[1])


NUMBERS = {"float16": np.float16, "float32": np.float32, "float64": np.float64, "int16": np.int16, "uint8": np.uint8}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_array_round_trips(tmp_path_factory, data):
    dtype = data.draw(st.sampled_from([*NUMBERS, "bool", "int32", "int64"]))
    fixed = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    is_ragged = data.draw(st.booleans()) or not fixed
    column = Column("x", dtype, ("N", *fixed) if is_ragged else fixed)
    lengths = data.draw(st.lists(st.integers(0, 5), max_size=11))
    shapes = [(n, *fixed) if is_ragged else fixed for n in lengths]
    rows = [{"x": data.draw(hnp.arrays(dtype, shape))} for shape in shapes]
    path = tmp_path_factory.mktemp("table") / "a.parquet"
    write_table(path, rows, [column])
    table = read_table(path)
    for number, row in enumerate(rows):
        assert same(to_numpy(table, "x", number), row["x"], column)


def test_files_are_plain_nested_lists_without_nulls(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, make_rows([2, 3]), COLUMNS)
    schema = pq.read_schema(path)
    fixed = pa.list_(pa.field("element", pa.float32(), nullable=False), 136)
    assert schema.field("landmarks").type == pa.list_(pa.field("element", fixed, nullable=False))
    assert schema.field("valid").type == pa.list_(pa.field("element", pa.bool_(), nullable=False))
    assert not any(field.nullable for field in schema)
    table = pq.read_table(path)
    assert all(table.column(name).null_count == 0 for name in table.column_names)
    nested = table.column("landmarks")[1].as_py()
    given_value = list(make_rows([2, 3]))[1]["landmarks"]
    np.testing.assert_array_equal(np.asarray(nested, np.float32).reshape(-1, 68, 2), given_value)


def test_layout_is_the_measured_one(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, make_rows([2] * 20), COLUMNS)
    found = pq.ParquetFile(path).metadata
    assert [found.row_group(group).num_rows for group in range(found.num_row_groups)] == [8, 8, 4]
    chunks = [found.row_group(0).column(number) for number in range(found.num_columns)]
    assert {chunk.compression for chunk in chunks} == {"ZSTD"}
    assert not any("DICTIONARY" in encoding for chunk in chunks for encoding in chunk.encodings)
    split = {chunk.path_in_schema.split(".")[0] for chunk in chunks if "BYTE_STREAM_SPLIT" in chunk.encodings}
    assert split == {"landmarks", "hubert", "pose", "score"}


def test_schema_tells_everything_about_a_column(tmp_path):
    write_table(tmp_path / "a.parquet", make_rows([2]), COLUMNS, {"step": "cut", "a": "b"})
    schema = read_schema(tmp_path / "a.parquet")
    assert columns_of(schema) == COLUMNS
    assert columns_of(read_table(tmp_path / "a.parquet").schema) == COLUMNS
    assert schema.metadata == {b"a": b"b", b"step": b"cut"}
    assert schema.field("landmarks").metadata[b"unit"] == b"px"
    assert schema.field("landmarks").metadata[b"shape"] == b'["N", 68, 2]'


def test_empty_table(tmp_path):
    write_table(tmp_path / "a.parquet", [], COLUMNS)
    table = read_table(tmp_path / "a.parquet")
    assert table.num_rows == 0
    assert columns_of(table.schema) == COLUMNS


WRITE_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tests.storage.test_tables import COLUMNS, make_rows
from storage.tables import write_table
write_table(Path(sys.argv[1]), make_rows([5, 0, 9] * 5), COLUMNS, {"b": "2", "a": "1"})
"""


def test_same_rows_are_same_bytes_in_every_process(tmp_path):
    write_table(tmp_path / "a.parquet", make_rows([5, 0, 9] * 5), COLUMNS, {"a": "1", "b": "2"})
    for seed in ("1", "2"):
        command = [sys.executable, "-c", WRITE_IN_ANOTHER_PROCESS, str(tmp_path / seed)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2])
    hashes = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.parquet", "1", "2")}
    assert len(hashes) == 1


def test_read_row_decodes_its_row_group_only(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, make_rows([20] * 24), COLUMNS)
    group = pq.ParquetFile(path).metadata.row_group(1)
    data = bytearray(path.read_bytes())
    for number in range(group.num_columns):
        chunk = group.column(number)
        middle = chunk.data_page_offset + chunk.total_compressed_size // 2
        data[middle] ^= 255
    path.write_bytes(data)
    for row in (0, 7, 16, 23):
        read_row(path, row)
    with pytest.raises(StoreCorrupt, match=r"a\.parquet"):
        read_row(path, 8)
    with pytest.raises(StoreCorrupt, match=r"a\.parquet"):
        read_table(path)


def test_columns_can_be_chosen(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, make_rows([2, 3]), COLUMNS)
    assert list(read_row(path, 1, ["valid", "clip"])) == ["valid", "clip"]
    assert read_table(path, ["pose"]).column_names == ["pose"]
    for read in (lambda: read_table(path, ["nose"]), lambda: read_row(path, 0, ["nose"])):
        with pytest.raises(KeyError, match="nose"):
            read()


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_that_are_not_there(tmp_path, row):
    write_table(tmp_path / "a.parquet", make_rows([1, 2, 3]), COLUMNS)
    with pytest.raises(IndexError, match="3 rows"):
        read_row(tmp_path / "a.parquet", row)
    with pytest.raises(IndexError, match="3 rows"):
        to_numpy(read_table(tmp_path / "a.parquet"), "pose", row if row > 0 else -4)


def broken(**changes):
    row = next(make_rows([3]))
    row.update(changes)
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (broken(landmarks=np.zeros((3, 67, 2), np.float32)), ValueError, "row 1, column landmarks"),
        (broken(landmarks=np.zeros((3, 68, 2))), TypeError, "row 1, column landmarks.*float64"),
        (broken(landmarks=[[0.0]]), TypeError, "row 1, column landmarks"),
        (broken(landmarks=np.zeros((4, 68, 2), np.float32)), ValueError, "N = "),
        (broken(hubert=np.zeros((7, 4), np.float16)), ValueError, "row 1, column hubert.*'2N'"),
        (broken(valid=None), ValueError, "valid is missing"),
        (broken(extra=1), ValueError, "extra"),
        (broken(offset=2**63), ValueError, "offset"),
        (broken(offset=1.5), TypeError, "offset"),
        (broken(clip=3), TypeError, "clip"),
        (broken(clip="\udcff"), ValueError, "row 1, column clip"),
        (broken(words=["a", None]), TypeError, "words"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(tmp_path, row, error, message):
    with pytest.raises(error, match=message):
        write_table(tmp_path / "a.parquet", [next(make_rows([3])), row], COLUMNS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.b", "int16"),
        ("", "int16"),
        ("x", "complex64"),
        ("x", "int16", (3, "N")),
        ("x", "int16", ("N", 0)),
        ("x", "int16", ("?",)),
    ],
)
def test_columns_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError):
        Column(*arguments)


def test_column_twice_is_refused():
    with pytest.raises(ValueError, match="x"):
        schema_of([Column("x", "int16"), Column("x", "int32")], {})


def test_damaged_files_are_named_and_never_read_as_something_else(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, make_rows([20] * 10), COLUMNS)
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreCorrupt, match=r"a\.parquet.*talkset refresh"):
            read_table(path)
    path.unlink()
    with pytest.raises(StoreCorrupt, match=r"a\.parquet"):
        read_table(path)


def test_one_flipped_byte_in_a_page_is_found(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, make_rows([20] * 10), COLUMNS)
    whole = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    for offset in np.linspace(
        chunk.data_page_offset + 60, chunk.data_page_offset + chunk.total_compressed_size - 1, 20
    ):
        data = bytearray(whole)
        data[int(offset)] ^= 16
        path.write_bytes(data)
        with pytest.raises(StoreCorrupt, match=r"a\.parquet"):
            read_table(path, ["landmarks"])


def test_full_disk(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "a.parquet").symlink_to("/dev/full")
    with pytest.raises(OutOfSpace, match=r"a\.parquet"):
        write_table(tmp_path / "a.parquet", make_rows([125] * 20), COLUMNS)
    assert list(tmp_path.iterdir()) == []


def test_scalar_table_round_trips_and_lacks_only_numbers(tmp_path):
    columns = [
        Column("clip", "string"),
        Column("score", "float32"),
        Column("num_frames", "int32"),
        Column("ok", "bool"),
    ]
    rows = [{"clip": f"c{n}", "num_frames": n, "ok": n % 2 == 0} | ({"score": n / 2} if n else {}) for n in range(5)]
    write_scalars(tmp_path / "a.parquet", rows, columns)
    table = read_table(tmp_path / "a.parquet")
    assert columns_of(table.schema) == tuple(columns)
    assert np.isnan(to_numpy(table, "score", 0))
    assert read_row(tmp_path / "a.parquet", 3) == {"clip": "c3", "score": 1.5, "num_frames": 3, "ok": False}
    with pytest.raises(KeyError, match="ok"):
        write_scalars(tmp_path / "b.parquet", [{"clip": "c", "num_frames": 1}], columns)
    assert not (tmp_path / "b.parquet").exists()


def test_foreign_table_is_not_guessed_at(tmp_path):
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column x does not say its shape"):
        read_row(tmp_path / "a.parquet", 0)
