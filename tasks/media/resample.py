"""Resample: crop and antialiased resize of I420 planes straight to square RGB images.

Only the crop is converted, and it is resized before it is: three planes with separable triangle weights (what Pillow
calls BILINEAR), each at its own resolution, then YUV -> RGB at the size of the result.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from tasks.media.video import YuvColor

_BLOCK = 8  # output rows that are turned at once, so that one vector register holds a column of them


class CropResizer:
    """One square crop of many frames: weights are computed once, then each call makes one image.

    The crop is never squeezed: where it leaves the frame the image is black. Chroma is taken as MPEG-2 sites it, on
    the left pixel of a pair and between two rows. Float32 arithmetic in a fixed order: results do not depend on the
    number of threads. Not for two threads at once: the buffers are shared.

    Args:
        box: (x0, y0, side) in px of the upright source; may reach outside of it.
        size: side of the result in px.
        frame_shape: (height, width) of the luma plane.
        color: matrix and range of the planes.

    Raises:
        ValueError: side or size is not positive.
    """

    def __init__(self, box: tuple[int, int, int], size: int, frame_shape: tuple[int, int], color: YuvColor) -> None:
        x0, y0, side = box
        if side <= 0 or size <= 0:
            raise ValueError(f"a crop of side {side} px cannot become {size} px; both must be positive")
        height, width = frame_shape
        self.size = size
        half_height, half_width = (height + 1) // 2, (width + 1) // 2
        self._shapes = ((height, width), (half_height, half_width), (half_height, half_width))
        rows, columns = _Taps.luma(y0, side, size, height), _Taps.luma(x0, side, size, width)
        chroma_rows = _Taps.chroma(y0 / 2, side, rows, half_height)
        chroma_columns = _Taps.chroma(x0 / 2 + 0.25, side, columns, half_width)
        self._luma, self._chroma = (rows, columns), (chroma_rows, chroma_columns)
        self._black = 0.0 if color.is_full_range else 16.0
        self._gains = color.gains()
        padded = -(-size // _BLOCK) * _BLOCK
        self._planes = np.empty((3, size, padded), np.float32)  # transposed: [column, row]
        self._buffers = np.empty((2, _BLOCK * max(columns.span, chroma_columns.span, 1)), np.float32)

    def __call__(self, y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 [size, size, 3] of one frame: y [H, W], u and v [ceil(H/2), ceil(W/2)] uint8.

        Raises:
            ValueError: a plane is not of the shape this resizer was made for.
        """
        for plane, values, shape, taps in zip(
            self._planes, (y, u, v), self._shapes, (self._luma, self._chroma, self._chroma), strict=True
        ):
            if values.shape != shape:
                raise ValueError(f"expected a plane of shape {shape}, found {values.shape}")
            flat, stride = _flat(values)
            _resize(flat, stride, *taps, self._buffers, plane)
        rgb = np.empty((self.size, self.size, 3), np.uint8)
        rows, columns = self._luma
        _to_rgb(self._planes, rows.coverage, columns.coverage, self._black, self._gains, rgb)
        return rgb


def crop_transform(box: tuple[int, int, int], size: int) -> NDArray[np.float64]:
    """[3, 3]: source px -> crop px in homogeneous coordinates; (0, 0) is the centre of the top-left pixel."""
    x0, y0, side = box
    scale = size / side
    shift = 0.5 * scale - 0.5
    return np.array([[scale, 0.0, shift - x0 * scale], [0.0, scale, shift - y0 * scale], [0.0, 0.0, 1.0]])


class _Taps(NamedTuple):
    """Weights of one axis: output i is the sum over k < num[i] of weights[i, k] * input[start[i] + k].

    Attributes:
        start, num: [size] int64.
        weights: [size, K] float32.
        coverage: [size] float32, share of the weight that lies inside the frame: 1 inside, 0 in the padding.
        first: first input that is read.
        span: number of inputs from the first to the last that is read.
    """

    start: NDArray[np.int64]
    num: NDArray[np.int64]
    weights: NDArray[np.float32]
    coverage: NDArray[np.float32]
    first: int
    span: int

    @classmethod
    def luma(cls, x0: int, side: int, size: int, length: int) -> "_Taps":
        """Weights over the union of frame and crop: each row adds up to 1 over it, those on padding meet black."""
        inputs, weights = _triangle(x0, side, size, min(0, x0), max(length, x0 + side))
        weights[(inputs < 0) | (inputs >= length)] = 0.0
        return cls.packed(inputs, weights, weights.sum(axis=1))

    @classmethod
    def chroma(cls, x0: float, side: int, luma: "_Taps", length: int) -> "_Taps":
        """As luma at half the resolution; past its last sample a plane goes on with it, as far as luma reaches."""
        inputs, weights = _triangle(x0, side / 2, len(luma.start), 0, length)
        is_beyond = weights.sum(axis=1) == 0
        inputs[is_beyond, 0] = np.clip(inputs[is_beyond, 0], 0, length - 1)
        weights[is_beyond, 0] = 1.0
        return cls.packed(inputs, weights * luma.coverage[:, None], luma.coverage)

    @classmethod
    def packed(cls, inputs: NDArray[np.int64], weights: NDArray[np.float64], coverage: NDArray[np.floating]) -> "_Taps":
        """Weights that are nonzero in one run per row: that run, moved to the front."""
        begin = (weights > 0).argmax(axis=1)[:, None]
        num = (weights > 0).sum(axis=1)
        places = np.minimum(begin + np.arange(max(1, num.max())), weights.shape[1] - 1)
        packed = np.take_along_axis(weights, places, axis=1).astype(np.float32)
        start = np.take_along_axis(inputs, begin, axis=1)[:, 0]
        used = num > 0
        first = int(start[used].min()) if used.any() else 0
        span = int((start + num)[used].max()) - first if used.any() else 0
        return cls(start, num, packed, coverage.astype(np.float32), first, span)


def _triangle(x0: float, side: float, size: int, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(inputs, weights), both [size, K]: triangle filter of Pillow's BILINEAR, stretched when it shrinks.

    Weights outside of [low, high) are 0; each row sums to 1, or to 0 when nothing of it lies inside.
    """
    scale = side / size
    support = max(scale, 1.0)
    centres = x0 + (np.arange(size) + 0.5) * scale
    inputs = np.floor(centres - support).astype(np.int64)[:, None] + np.arange(int(2 * support) + 2)
    weights = np.maximum(0.0, 1.0 - np.abs(inputs + 0.5 - centres[:, None]) / support)
    weights[(inputs < low) | (inputs >= high)] = 0.0
    sums = weights.sum(axis=1, keepdims=True)
    return inputs, np.divide(weights, sums, out=weights, where=sums > 0)


def _flat(plane: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """A plane as the run of bytes from its first to its last pixel, and the bytes from row to row; no copy."""
    if plane.strides[1] != 1 or plane.strides[0] < 0:
        plane = np.ascontiguousarray(plane)
    height, width = plane.shape
    stride = plane.strides[0]
    flat = np.lib.stride_tricks.as_strided(plane, ((height - 1) * stride + width,), (1,), writeable=False)
    return flat, stride


@numba.njit(cache=True, nogil=True)
def _resize(
    plane: NDArray[np.uint8],
    stride: int,
    rows: _Taps,
    columns: _Taps,
    buffers: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """[height, width] bytes -> out [size, padded size] float32, transposed."""
    size, first, span = len(columns.start), columns.first, columns.span
    lines, turned = buffers[0, : _BLOCK * span].reshape(_BLOCK, span), buffers[1]
    for top in range(0, size, _BLOCK):
        for row in range(_BLOCK):
            i = min(top + row, size - 1)
            _weighted_rows(plane, rows.start[i] * stride + first, stride, rows.weights[i], rows.num[i], lines[row])
        _turn(lines, turned)
        _weighted_columns(turned, columns, out, top)


@numba.njit(cache=True, nogil=True)
def _weighted_rows(
    plane: NDArray[np.uint8], begin: int, stride: int, weights: NDArray[np.float32], num: int, out: NDArray[np.float32]
) -> None:
    """out[x] = sum over k of weights[k] * plane[begin + k * stride + x]; four rows at a time spare stores."""
    width = len(out)
    out[:] = np.float32(0)
    k = 0
    while k + 4 <= num:
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        a = begin + k * stride
        r0, r1 = plane[a : a + width], plane[a + stride : a + stride + width]
        a += 2 * stride
        r2, r3 = plane[a : a + width], plane[a + stride : a + stride + width]
        for x in range(width):
            out[x] += w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
        k += 4
    while k < num:
        w0, a = weights[k], begin + k * stride
        r0 = plane[a : a + width]
        for x in range(width):
            out[x] += w0 * r0[x]
        k += 1


@numba.njit(cache=True, nogil=True)
def _turn(lines: NDArray[np.float32], turned: NDArray[np.float32]) -> None:
    """lines [8, n] -> turned [n * 8], column after column."""
    a, b, c, d, e, f, g, h = lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[6], lines[7]
    for x in range(lines.shape[1]):
        p = _BLOCK * x
        turned[p], turned[p + 1], turned[p + 2], turned[p + 3] = a[x], b[x], c[x], d[x]
        turned[p + 4], turned[p + 5], turned[p + 6], turned[p + 7] = e[x], f[x], g[x], h[x]


@numba.njit(cache=True, nogil=True)
def _weighted_columns(lines: NDArray[np.float32], taps: _Taps, out: NDArray[np.float32], top: int) -> None:
    """out[j, top + r] = sum over k of weights[j, k] * lines[8 (start[j] - first + k) + r].

    Eight named sums become one vector register; slices would cost a reference count each.
    """
    for j in range(len(taps.start)):
        a = b = c = d = e = f = g = h = np.float32(0)
        p = _BLOCK * (taps.start[j] - taps.first)
        for k in range(taps.num[j]):
            w = taps.weights[j, k]
            a += w * lines[p]
            b += w * lines[p + 1]
            c += w * lines[p + 2]
            d += w * lines[p + 3]
            e += w * lines[p + 4]
            f += w * lines[p + 5]
            g += w * lines[p + 6]
            h += w * lines[p + 7]
            p += _BLOCK
        out[j, top], out[j, top + 1], out[j, top + 2], out[j, top + 3] = a, b, c, d
        out[j, top + 4], out[j, top + 5], out[j, top + 6], out[j, top + 7] = e, f, g, h


@numba.njit(cache=True, nogil=True)
def _to_rgb(
    planes: NDArray[np.float32],
    row_coverage: NDArray[np.float32],
    column_coverage: NDArray[np.float32],
    black: float,
    gains: NDArray[np.float32],
    rgb: NDArray[np.uint8],
) -> None:
    """Transposed planes [3, size, padded size] float32 -> rgb [size, size, 3] uint8, rounded to nearest."""
    size = len(rgb)
    luma, v_red, u_green, v_green, u_blue = gains[0], gains[1], gains[2], gains[3], gains[4]
    low, high, half = np.float32(0), np.float32(255), np.float32(0.5)
    channels = np.empty((3, size), np.uint8)
    for j in range(size):
        ys, us, vs = planes[0, j], planes[1, j], planes[2, j]
        red, green, blue = channels[0], channels[1], channels[2]
        for i in range(size):
            share = row_coverage[i] * column_coverage[j]
            y = luma * (ys[i] - np.float32(black) * share)
            u, v = us[i] - np.float32(128) * share, vs[i] - np.float32(128) * share
            red[i] = np.uint8(min(max(y + v_red * v, low), high) + half)
            green[i] = np.uint8(min(max(y + u_green * u + v_green * v, low), high) + half)
            blue[i] = np.uint8(min(max(y + u_blue * u, low), high) + half)
        for i in range(size):
            rgb[i, j, 0], rgb[i, j, 1], rgb[i, j, 2] = red[i], green[i], blue[i]
