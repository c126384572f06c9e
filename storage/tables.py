"""Parquet tables: one row per clip, arrays as plain nested lists that any reader understands.

How an array of one clip is laid out, by its declared shape:

    ()            a scalar
    (7,)          fixed_size_list<leaf>[7]
    (4, 4)        fixed_size_list<leaf>[16]              shape [4, 4] in the field's metadata
    ("N",)        list<leaf>                             N differs from clip to clip
    ("N", 68, 2)  list<fixed_size_list<leaf>[136]>       one inner list per frame

Equal rows, columns and metadata give equal bytes. Nothing is ever null: missing values are NaN plus a mask.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage import files
from storage.errors import StoreCorrupt

# Column -> array of the declared shape, or the Python value of a scalar.
Row = dict[str, Any]
Dtype = Literal["float16", "float32", "float64", "int16", "int32", "int64", "uint8", "bool", "string"]

ROWS_PER_GROUP = 8  # a row group is the unit of random access: one clip costs the decoding of eight
ZSTD_LEVEL = 3
_SCALAR_ROWS_PER_GROUP = 16384

_ARROW_TYPES: dict[str, pa.DataType] = {
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
_SYMBOL = re.compile(r"(\d*)([A-Za-z]\w*)")


@dataclass(frozen=True, slots=True)
class Column:
    """What one column holds for one clip.

    Attributes:
        name: a Python identifier, lower case by custom.
        dtype: leaf type; arrays handed to `write_table` must have exactly this dtype.
        shape: first axis may be symbolic ("N" frames, "2N", "T80"), all others are positive integers; () is a scalar.
            Within a row equal symbols mean equal lengths, and "2N" is twice "N".
        unit: for example "px", "s", "dB"; empty for pure numbers.
        rate_hz: rows of the first axis per second, None where it is not a time axis.
        doc: one line for a person.
    """

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...] = ()
    unit: str = ""
    rate_hz: float | None = None
    doc: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", self.name, re.ASCII):
            raise ValueError(f"column name {self.name!r}: use letters, digits and underscores")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"column {self.name}: dtype {self.dtype!r} is not one of {get_args(Dtype)}")
        if self.is_ragged and not _SYMBOL.fullmatch(str(self.shape[0])):
            raise ValueError(f"column {self.name}: axis {self.shape[0]!r} is not like 'N', '2N' or 'T80'")
        if any(not isinstance(size, int) or size < 1 for size in self.fixed_shape):
            raise ValueError(
                f"column {self.name}: {self.shape}: only the first axis may vary; others are integers >= 1"
            )

    @property
    def is_ragged(self) -> bool:
        """Whether the first axis differs from clip to clip."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """The axes that are the same for every clip: all but a symbolic first one."""
        return tuple(self.shape[1:] if self.is_ragged else self.shape)  # pyright: ignore[reportReturnType]


def write_table(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one Parquet file; rows are consumed eight at a time, so a generator keeps memory small.

    Tables with nothing per frame are scanned whole, never row by row: they get one large row group.

    Args:
        path: new file; nothing is left behind when writing fails.
        rows: one mapping per clip with exactly the names of `columns`; values are arrays of the declared dtype and
            shape, or Python scalars and strings for shape ().
        columns: order is kept in the file.
        metadata: stored in the schema.

    Raises:
        ValueError, TypeError: a row does not match its columns; the message names row and column.
        OutOfSpace: the disk is full.
    """
    schema = schema_of(columns, metadata or {})
    num_rows = ROWS_PER_GROUP if any(column.is_ragged for column in columns) else _SCALAR_ROWS_PER_GROUP
    try:
        with files.out_of_space(path), _writer(path, schema, columns) as writer:
            for first, chunk in _chunks(iter(rows), num_rows):
                arrays = [_to_arrow(column, _cells(column, chunk, first)) for column in columns]
                _check_rows(chunk, columns, first)
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=num_rows)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_scalars(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column],
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> None:  # fmt: skip
    """Write a table of scalars only, column by column: made to be scanned whole, 100,000 rows in seconds.

    Numbers that a row lacks are NaN; it is an error for any other column to lack a value.

    Args:
        path: new file.
        rows: one mapping per row.
        columns: all of shape ().
        arrays: columns that are given whole, in the order of the rows, and are not looked up in them.

    Raises:
        KeyError, TypeError, ValueError: a row does not match its columns.
        OutOfSpace: the disk is full.
    """
    schema = schema_of(columns, {})
    types = [_ARROW_TYPES[column.dtype] for column in columns]
    given = arrays or {}
    cells = [
        pa.array(given[column.name] if column.name in given else _scalars(rows, column), kind, from_pandas=False)
        for column, kind in zip(columns, types, strict=True)
    ]
    with files.out_of_space(path):
        pq.write_table(
            pa.Table.from_arrays(cells, schema=schema), path, row_group_size=_SCALAR_ROWS_PER_GROUP,
            compression="zstd", compression_level=ZSTD_LEVEL, write_page_checksum=True,
        )  # fmt: skip


def _scalars(rows: Sequence[Mapping[str, Any]], column: Column) -> list[Any]:
    if column.dtype.startswith("float"):
        return [row.get(column.name, float("nan")) for row in rows]
    return [row[column.name] for row in rows]


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read whole columns (all when None).

    Raises:
        StoreCorrupt: the file is missing, cut short or fails its page checksums.
        KeyError: a column is not in the file.
    """
    with _reading(path) as file:
        return file.read(columns=_existing(file, path, columns), use_threads=False)


def read_numbers(path: Path) -> pa.Table:
    """Read the columns that hold one number (or truth value) per clip, leaving arrays and text on the disk.

    Raises:
        StoreCorrupt: the file is missing, cut short or fails its page checksums.
    """
    with _reading(path) as file:
        columns = columns_of(file.schema_arrow)
        names = [column.name for column in columns if not column.shape and column.dtype != "string"]
        return file.read(columns=names, use_threads=False)


def read_row(path: Path, row: int, columns: Sequence[str] | None = None) -> Row:
    """Read one clip: arrays of the declared shape, Python values for scalars. Only the row's group is decoded.

    Raises:
        StoreCorrupt: the file is missing, cut short or fails its page checksums.
        KeyError: a column is not in the file.
        IndexError: there is no such row.
    """
    with _reading(path) as file:
        names = _existing(file, path, columns)
        group, offset = _locate(file, row, path)
        table = file.read_row_group(group, columns=names, use_threads=False)
    cells = {name: to_numpy(table, name, offset) for name in table.column_names}
    return {name: cell if cell.ndim else cell.item() for name, cell in cells.items()}


def to_numpy(table: pa.Table, column: str, row: int) -> NDArray[Any]:
    """One cell of a table read by `read_table`: a writable array of the declared shape (0-d for scalars)."""
    spec = _column_of(table.schema.field(column))
    if not -table.num_rows <= row < table.num_rows:
        raise IndexError(f"row {row} of a table with {table.num_rows} rows")
    cell = table.column(column).slice(row % table.num_rows, 1).combine_chunks()
    values = cell.chunk(0) if isinstance(cell, pa.ChunkedArray) else cell
    for _ in range(spec.is_ragged + bool(spec.fixed_shape)):
        values = values.flatten()
    flat = np.array(values.to_numpy(zero_copy_only=False), dtype=_numpy_dtype(spec))
    return flat.reshape((-1, *spec.fixed_shape) if spec.is_ragged else spec.fixed_shape)


def schema_of(columns: Sequence[Column], metadata: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of a table: shape, unit, rate and doc of every column are in its field's metadata."""
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"columns appear twice: {sorted({name for name in names if names.count(name) > 1})}")
    return pa.schema([_field(column) for column in columns], metadata=dict(sorted(metadata.items())))


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns a file was written with."""
    return tuple(_column_of(field) for field in schema)


def read_schema(path: Path) -> pa.Schema:
    """Schema and metadata of a file without reading its rows.

    Raises:
        StoreCorrupt: the file is missing or not a whole Parquet file.
    """
    with _reading(path) as file:
        return file.schema_arrow


# ---- schema


def _field(column: Column) -> pa.Field:
    described = {"dtype": column.dtype, "shape": json.dumps(column.shape), "unit": column.unit, "doc": column.doc}
    if column.rate_hz is not None:
        described["rate_hz"] = repr(float(column.rate_hz))
    return pa.field(column.name, _arrow_type(column), nullable=False, metadata=dict(sorted(described.items())))


def _arrow_type(column: Column) -> pa.DataType:
    kind = _ARROW_TYPES[column.dtype]
    if column.fixed_shape:
        kind = pa.list_(pa.field("element", kind, nullable=False), prod(column.fixed_shape))
    if column.is_ragged:
        kind = pa.list_(pa.field("element", kind, nullable=False))
    return kind


def _column_of(field: pa.Field) -> Column:
    found = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    if "shape" not in found:
        raise ValueError(f"column {field.name} does not say its shape: the table was not written by talkset")
    rate_hz = float(found["rate_hz"]) if "rate_hz" in found else None
    shape = tuple(json.loads(found["shape"]))
    return Column(field.name, found["dtype"], shape, found["unit"], rate_hz, found["doc"])  # pyright: ignore[reportArgumentType]


def _leaf_path(column: Column) -> str:
    return column.name + ".list.element" * (column.is_ragged + bool(column.fixed_shape))


# ---- writing


def _writer(path: Path, schema: pa.Schema, columns: Sequence[Column]) -> pq.ParquetWriter:
    floats = [_leaf_path(column) for column in columns if column.dtype.startswith("float")]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=False,  # a dictionary of floats is larger than the floats
        use_byte_stream_split=floats,  # pyright: ignore[reportArgumentType]
        write_page_checksum=True,
    )


def _chunks(rows: Iterator[Mapping[str, Any]], size: int) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    first = 0
    while chunk := list(islice(rows, size)):
        yield first, chunk
        first += len(chunk)


def _cells(column: Column, chunk: Sequence[Mapping[str, Any]], first: int) -> list[NDArray[Any]]:
    cells: list[NDArray[Any]] = []
    for number, row in enumerate(chunk, start=first):
        if column.name not in row:
            raise ValueError(f"row {number}: column {column.name} is missing")
        try:
            cells.append(_cell(column, row[column.name]))
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"row {number}, column {column.name}: {error}") from error
    return cells


def _cell(column: Column, value: Any) -> NDArray[Any]:
    array = _string_cell(value) if column.dtype == "string" else _number_cell(column, value)
    num_fixed = len(column.fixed_shape)
    if array.ndim != len(column.shape) or array.shape[array.ndim - num_fixed :] != column.fixed_shape:
        raise ValueError(f"shape {array.shape}, expected {column.shape}")
    return array


def _string_cell(value: Any) -> NDArray[Any]:
    array = np.asarray(value, dtype=object)
    if not all(isinstance(item, str) for item in array.flat):
        raise TypeError("expected strings")
    for item in array.flat:
        item.encode()  # a lone surrogate (an undecodable file name) is refused here, where the row is known
    return array


def _number_cell(column: Column, value: Any) -> NDArray[Any]:
    dtype = np.dtype(column.dtype)
    if column.shape:
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            raise TypeError(f"expected an array of {dtype}, got {getattr(value, 'dtype', type(value).__name__)}")
        return value
    if not np.can_cast(np.asarray(value).dtype, dtype, "same_kind"):
        raise TypeError(f"expected {dtype}, got {value!r}")
    narrow = np.asarray(value).astype(dtype)
    if dtype.kind in "iu" and int(narrow) != int(value):
        raise OverflowError(f"{value!r} does not fit {dtype}")
    return narrow


def _check_rows(chunk: Sequence[Mapping[str, Any]], columns: Sequence[Column], first: int) -> None:
    known = {column.name for column in columns}
    ragged = [column for column in columns if column.is_ragged]
    for number, row in enumerate(chunk, start=first):
        if unknown := sorted(set(row) - known):
            raise ValueError(f"row {number}: no such columns: {unknown}")
        _check_lengths(ragged, row, number)


def _check_lengths(ragged: Sequence[Column], row: Mapping[str, Any], number: int) -> None:
    lengths: dict[str, tuple[float, str]] = {}
    for column in ragged:
        factor, symbol = _SYMBOL.fullmatch(str(column.shape[0])).groups()  # pyright: ignore[reportOptionalMemberAccess]
        length = len(row[column.name]) / int(factor or 1)
        expected, other = lengths.setdefault(symbol, (length, column.name))
        if length != expected:
            raise ValueError(
                f"row {number}, column {column.name}: length {len(row[column.name])} for {column.shape[0]!r}"
                f" does not agree with column {other}, by which {symbol} = {expected:g}"
            )


def _to_arrow(column: Column, cells: Sequence[NDArray[Any]]) -> pa.Array:
    flat = np.concatenate([cell.reshape(-1) for cell in cells])
    array = pa.array(flat, type=_ARROW_TYPES[column.dtype], from_pandas=False)
    kind = _arrow_type(column)
    if column.fixed_shape:
        inner = kind.value_type if column.is_ragged else kind
        array = pa.FixedSizeListArray.from_arrays(array, type=inner)
    if column.is_ragged:
        offsets = np.cumsum([0, *(len(cell) for cell in cells)], dtype=np.int32)
        array = pa.ListArray.from_arrays(pa.array(offsets), array, type=kind)
    return array


# ---- reading


class _reading:
    """Open a Parquet file; what Arrow says about broken bytes becomes StoreCorrupt naming the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> pq.ParquetFile:
        try:
            self.file = pq.ParquetFile(self.path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise self._corrupt(error) from error
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.file.close(force=True)
        if isinstance(error, (pa.ArrowException, OSError)):
            raise self._corrupt(error) from error

    def _corrupt(self, error: BaseException | None) -> StoreCorrupt:
        return StoreCorrupt(f"{self.path}: not a whole Parquet file ({error}). {files.HOW_TO_REBUILD}")


def _existing(file: pq.ParquetFile, path: Path, columns: Sequence[str] | None) -> list[str]:
    names = file.schema_arrow.names
    if columns is None:
        return names
    if missing := [name for name in columns if name not in names]:
        raise KeyError(f"{path} has no columns {missing}; it has {names}")
    return list(columns)


def _locate(file: pq.ParquetFile, row: int, path: Path) -> tuple[int, int]:
    if not 0 <= row < file.metadata.num_rows:
        raise IndexError(f"row {row} of {path}, which has {file.metadata.num_rows} rows")
    for group in range(file.metadata.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if row < num_rows:
            return group, row
        row -= num_rows
    raise StoreCorrupt(f"{path}: fewer rows in its groups than in its footer. {files.HOW_TO_REBUILD}")


def _numpy_dtype(column: Column) -> np.dtype[Any]:
    # object, not <U: numpy cuts trailing NULs off fixed-width text
    return np.dtype(object if column.dtype == "string" else column.dtype)
