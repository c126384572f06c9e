"""68-point landmarks: dlib's ensemble of regression trees, evaluated by our own numba code with float output.

The method is Kazemi and Sullivan, "One Millisecond Face Alignment with an Ensemble of Regression Trees" (CVPR 2014).
The trees are those of `shape_predictor_68_face_landmarks.dat` in the PyPI package `face_recognition_models`; dlib
evaluates the same file but rounds its result to whole pixels. The model was trained on iBUG 300-W, whose licence
excludes commercial use.

Reading the file takes about a second (more when the reader must be compiled first), so its tables are kept as `.npy`
files in the user's cache and mapped from there: the processes of one machine share one copy.
"""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from storage import weights
from storage.errors import WeightsError

WEIGHTS = "dlib68"
NUM_CASCADES, NUM_TREES, NUM_SPLITS, NUM_LEAVES, NUM_POINTS = 15, 500, 15, 16, 68
TABLE_FORMAT = 1  # part of the cache folder's name: another layout of the tables must not meet old files


class Tables(NamedTuple):
    """The regression trees of one .dat file, read-only arrays.

    Attributes:
        initial: float32 [68, 2], the mean shape in box coordinates (0..1).
        splits: int16 [15, 500, 15, 3], pixel index 1, pixel index 2, threshold: go left when pixel1 - pixel2 >
            threshold.
        leaves: float32 [15, 500, 16, 136], what a leaf adds to the shape.
        anchors: int16 [15, 500], the landmark that each probed pixel hangs on.
        deltas: float32 [15, 500, 2], its offset from that landmark in box coordinates.
    """

    initial: NDArray[np.float32]
    splits: NDArray[np.int16]
    leaves: NDArray[np.float32]
    anchors: NDArray[np.int16]
    deltas: NDArray[np.float32]

    @classmethod
    def empty(cls) -> "Tables":
        """Tables of the right shapes, not filled."""
        return cls(
            np.empty((NUM_POINTS, 2), np.float32),
            np.empty((NUM_CASCADES, NUM_TREES, NUM_SPLITS, 3), np.int16),
            np.empty((NUM_CASCADES, NUM_TREES, NUM_LEAVES, 2 * NUM_POINTS), np.float32),
            np.empty((NUM_CASCADES, NUM_TREES), np.int16),
            np.empty((NUM_CASCADES, NUM_TREES, 2), np.float32),
        )

    @classmethod
    def mapped(cls, folder: Path) -> "Tables":
        """Map the files that `save` wrote.

        Raises:
            OSError, ValueError: one is absent or not as long as its header says.
        """
        files = (folder / f"{name}.npy" for name in cls._fields)
        tables = cls(*(np.asarray(np.load(file, mmap_mode="r", allow_pickle=False)) for file in files))
        if any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(tables, cls.empty(), strict=True)):
            raise ValueError(f"{folder}: tables of another shape")
        return tables

    def save(self, folder: Path) -> None:
        """Write each table beside its place and rename it, so that a reader meets a whole file or none."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self._asdict().items():
            handle, staged = tempfile.mkstemp(dir=folder, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.save(file, array, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                Path(staged).replace(folder / f"{name}.npy")
            finally:
                Path(staged).unlink(missing_ok=True)


class Predictor68:
    """68 landmarks in a gray image, given the box that dlib's detector would draw around the face.

    Attributes:
        sha256: hex digest of the .dat file.
        tables: its trees.
    """

    def __init__(self) -> None:
        """Map the cached tables, or read the .dat file.

        Raises:
            WeightsError: there is no such file, or it is not the pinned one.
        """
        self.sha256 = weights.fingerprint(WEIGHTS)
        folder = weights.cache_folder() / f"predictor68-v{TABLE_FORMAT}-{self.sha256[:32]}"
        self.tables = _cached_tables(weights.resolve(WEIGHTS), folder)
        self._kernel = _predict_kernel()

    def __call__(self, gray: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32]:
        """Landmarks float32 [68, 2] px of the face in `box` (xyxy px) in `gray`, uint8 [H, W] with any strides."""
        out = np.empty((NUM_POINTS, 2), np.float32)
        left, top, right, bottom = (float(v) for v in box)
        self._kernel(gray, (left, top, right, bottom), self.tables, out)
        return out


def parse_dat(path: Path) -> Tables:
    """Read a dlib .dat file of a 68-point predictor.

    Raises:
        WeightsError: the file has another shape, or ends early.
    """
    data = np.fromfile(path, np.uint8)
    tables = Tables.empty()
    if _parse(data, tables) != data.size:
        raise WeightsError(f"{path}: not dlib's 68-point shape predictor, or damaged")
    for table in tables:
        table.setflags(write=False)
    return tables


def _cached_tables(path: Path, folder: Path) -> Tables:
    """The tables mapped from `folder`, made there first if need be; in memory when the folder cannot be used."""
    try:
        return Tables.mapped(folder)
    except (OSError, ValueError):
        tables = parse_dat(path)
    try:
        tables.save(folder)
        return Tables.mapped(folder)
    except (OSError, ValueError):
        return tables


@numba.njit(cache=True)
def _read_int(data: NDArray[np.uint8], at: int) -> tuple[np.int64, int]:
    """dlib's packed integer at byte `at`: (value, byte after it); (0, -1) when it is not one or the data ends."""
    if at < 0 or at >= data.size:
        return np.int64(0), -1
    length = data[at] & 0x0F
    if length > 8 or at + length >= data.size:
        return np.int64(0), -1
    value = np.int64(0)
    for i in range(length):
        value |= np.int64(data[at + 1 + i]) << (8 * i)
    return (-value if data[at] & 0x80 else value), at + 1 + length


@numba.njit(cache=True)
def _read_float(data: NDArray[np.uint8], at: int) -> tuple[float, int]:
    """dlib's packed float at byte `at`, mantissa * 2 ** exponent, and the byte after it."""
    mantissa, at = _read_int(data, at)
    exponent, at = _read_int(data, at)
    return np.ldexp(float(mantissa), int(exponent)), at


@numba.njit(cache=True)
def _expect(data: NDArray[np.uint8], at: int, wanted: int) -> int:
    """Step over the integer `wanted`; -1 when it is another one."""
    value, at = _read_int(data, at)
    return at if value == wanted else -1


@numba.njit(cache=True)
def _parse(data: NDArray[np.uint8], tables: Tables) -> int:
    """Fill the tables; return the number of bytes read, or -1."""
    at = _expect(data, 0, 1)  # version
    at = _expect(data, _expect(data, at, -2 * NUM_POINTS), -1)  # a matrix stores its sizes negated
    for i in range(NUM_POINTS):
        tables.initial[i, 0], at = _read_float(data, at)
        tables.initial[i, 1], at = _read_float(data, at)
    at = _expect(data, at, NUM_CASCADES)
    for c in range(NUM_CASCADES):
        at = _expect(data, at, NUM_TREES)
        for t in range(NUM_TREES):
            at = _parse_tree(data, at, tables.splits[c, t], tables.leaves[c, t])
            if at < 0:
                return -1
    return _parse_probes(data, at, tables.anchors, tables.deltas)


@numba.njit(cache=True)
def _parse_tree(data: NDArray[np.uint8], at: int, splits: NDArray[np.int16], leaves: NDArray[np.float32]) -> int:
    at = _expect(data, at, NUM_SPLITS)
    for i in range(NUM_SPLITS):
        first, at = _read_int(data, at)
        second, at = _read_int(data, at)
        threshold, at = _read_float(data, at)
        if min(first, second) < 0 or max(first, second) >= NUM_TREES:
            return -1
        splits[i, 0], splits[i, 1] = first, second
        # Differences of two bytes are whole numbers, so comparing them with the floor decides the same, in a quarter of
        # the space.
        splits[i, 2] = min(max(np.floor(threshold), -256.0), 256.0)
    at = _expect(data, at, NUM_LEAVES)
    for i in range(NUM_LEAVES):
        at = _expect(data, _expect(data, at, -2 * NUM_POINTS), -1)
        for j in range(2 * NUM_POINTS):
            leaves[i, j], at = _read_float(data, at)
    return at


@numba.njit(cache=True)
def _parse_probes(data: NDArray[np.uint8], at: int, anchors: NDArray[np.int16], deltas: NDArray[np.float32]) -> int:
    at = _expect(data, at, NUM_CASCADES)
    for c in range(NUM_CASCADES):
        at = _expect(data, at, NUM_TREES)
        for i in range(NUM_TREES):
            anchors[c, i], at = _read_int(data, at)
            if anchors[c, i] < 0 or anchors[c, i] >= NUM_POINTS:
                return -1
    at = _expect(data, at, NUM_CASCADES)
    for c in range(NUM_CASCADES):
        at = _expect(data, at, NUM_TREES)
        for i in range(NUM_TREES):
            deltas[c, i, 0], at = _read_float(data, at)
            deltas[c, i, 1], at = _read_float(data, at)
    return at


def _predict(
    gray: NDArray[np.uint8], box: tuple[float, float, float, float], tables: Tables, out: NDArray[np.float32]
) -> None:
    """Fill `out` [68, 2] with the landmarks in px."""
    left, top, right, bottom = box
    shape = tables.initial.copy().reshape(2 * NUM_POINTS)
    pixels = np.empty(NUM_TREES, np.int16)
    chosen = np.empty(NUM_TREES, np.int64)
    for c in range(NUM_CASCADES):
        _probe(gray, box, tables, c, shape, pixels)
        for t in range(NUM_TREES):
            chosen[t] = _leaf_of(tables.splits[c, t], pixels)
        # All leaf addresses are known before the first is read: the loads overlap instead of waiting for each other.
        for t in range(NUM_TREES):
            leaf = tables.leaves[c, t, chosen[t]]
            for j in range(2 * NUM_POINTS):
                shape[j] += leaf[j]
    for i in range(NUM_POINTS):
        out[i, 0] = left + (right - left) * np.float64(shape[2 * i])
        out[i, 1] = top + (bottom - top) * np.float64(shape[2 * i + 1])


@numba.njit(cache=True)
def _leaf_of(splits: NDArray[np.int16], pixels: NDArray[np.int16]) -> int:
    """Leaf that a tree of 15 splits, stored as a heap, ends in."""
    node = 0
    while node < NUM_SPLITS:
        is_left = pixels[splits[node, 0]] - pixels[splits[node, 1]] > splits[node, 2]
        node = 2 * node + (1 if is_left else 2)
    return node - NUM_SPLITS


@numba.njit(cache=True)
def _probe(
    gray: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    tables: Tables,
    cascade: int,
    shape: NDArray[np.float32],
    pixels: NDArray[np.int16],
) -> None:
    """Gray values at the probed places, turned and scaled as `shape` is against the mean shape; 0 outside the image."""
    left, top, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
    anchors, deltas = tables.anchors[cascade], tables.deltas[cascade]
    cosine, sine = _rotation(tables.initial, shape)
    for i in range(NUM_TREES):
        at = 2 * anchors[i]
        u = cosine * deltas[i, 0] - sine * deltas[i, 1] + shape[at]
        v = sine * deltas[i, 0] + cosine * deltas[i, 1] + shape[at + 1]
        x = int(np.floor(left + width * np.float64(u) + 0.5))
        y = int(np.floor(top + height * np.float64(v) + 0.5))
        is_inside = 0 <= x < gray.shape[1] and 0 <= y < gray.shape[0]
        pixels[i] = gray[y, x] if is_inside else 0


@numba.njit(cache=True)
def _rotation(initial: NDArray[np.float32], shape: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Scaled cosine and sine of the least-squares similarity from the mean shape to `shape`."""
    mean_fx = mean_fy = mean_tx = mean_ty = 0.0
    for i in range(NUM_POINTS):
        mean_fx += initial[i, 0] / NUM_POINTS
        mean_fy += initial[i, 1] / NUM_POINTS
        mean_tx += shape[2 * i] / NUM_POINTS
        mean_ty += shape[2 * i + 1] / NUM_POINTS
    dot = cross = norm = 0.0
    for i in range(NUM_POINTS):
        fx, fy = initial[i, 0] - mean_fx, initial[i, 1] - mean_fy
        tx, ty = shape[2 * i] - mean_tx, shape[2 * i + 1] - mean_ty
        dot += fx * tx + fy * ty
        cross += fx * ty - fy * tx
        norm += fx * fx + fy * fy
    return np.float32(dot / norm), np.float32(cross / norm)


@cache
def _predict_kernel() -> Callable[..., None]:
    """`_predict` compiled once, for read-only arrays: frames of any strides and mapped tables convert to them."""
    array, types = numba.types.Array, numba.types
    fields = [array(numba.from_dtype(table.dtype), table.ndim, "C", readonly=True) for table in Tables.empty()]
    gray, box = array(types.uint8, 2, "A", readonly=True), types.UniTuple(types.float64, 4)
    signature = numba.void(gray, box, types.NamedTuple(fields, Tables), array(types.float32, 2, "C"))
    return numba.njit(signature, cache=True, nogil=True)(_predict)
