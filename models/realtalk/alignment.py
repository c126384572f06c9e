"""Alignment of two takes in time, and whether they say the same sentence at all.

Dynamic time warping (Sakoe and Chiba, 1978) on cepstra of the log-mel without the zeroth and without their mean: level
and timbre, by which an angry take differs from a neutral one, then hardly count. DTW finds a path between any two
recordings. A comparison that needs no labels decides whether it is meaningful: the same audio played backwards, or with
its thirds rotated, has the same spectra but no sentence in common. Only if the path is much cheaper than the cheapest
path to any of these do both takes say the same.

Measured: of 32 stretches of 3 s of real speech and copies of them with other tempo, pitch, tilt, level and noise, nine
tenths have a quotient below 0.70 (median 0.58); 402 pairs of different stretches of a speaker have all more than 0.78
(median 1.10), 156 pairs of the demo's takes all more than 0.72. Real takes of a sentence differ by more than copies do.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

# Cepstra 1 to 12; the zeroth is the level.
NUM_CEPSTRA = 12
# Frames to either side that a frame is compared together with: 0.36 s in all, more than a single phone.
_CONTEXT_FRAMES = 4
# 1.5 s: two shorter takes are alike by chance too often.
_FEWEST_FRAMES = 38
# Cost of a step in one take only, relative to half a step in both.
_SIDE_STEP = 1.5
# Frames over which a warp is smoothed: DTW moves in steps of 0, 1 or more frames, a face does not.
_SMOOTH_FRAMES = 5


@dataclass(frozen=True, slots=True)
class Alignment:
    """How take b fits take a.

    Attributes:
        frames: [Na] float64, the place in b that each frame of a corresponds to, 0 .. Nb - 1, never falling.
        likeness: cost of the path over that of the cheapest path to b out of order; below 0.7 for the same sentence.
            Infinite when a take is shorter than 1.5 s, which is too short to decide.
    """

    frames: NDArray[np.float64]
    likeness: float


def align(mel_a: NDArray[np.floating], mel_b: NDArray[np.floating]) -> Alignment:
    """Aligns takes by their mel50 [2 Na, 80] and [2 Nb, 80]."""
    a, b = cepstra(mel_a), cepstra(mel_b)
    cost, steps = _accumulate(_distances(a, b))
    likeness = cost / _cost_by_chance(a, b) if min(len(a), len(b)) >= _FEWEST_FRAMES else np.inf
    path = _path(steps)
    # [Na] mean of the frames of b that the path joins to each frame of a
    counts = np.bincount(path[:, 0], minlength=len(a))
    mean_steps = np.bincount(path[:, 0], weights=path[:, 1], minlength=len(a)) / counts
    return Alignment(_smooth(mean_steps), likeness)


def at_frames(values: NDArray[np.floating], frames: NDArray[np.float64]) -> NDArray[np.floating]:
    """Rows [n, ...] of values [N, ...] at places between 0 and N - 1, linearly between frames; NaN spreads."""
    low = np.floor(frames).astype(np.int64)
    share = (frames - low).reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    high = np.where(share.reshape(len(low), -1)[:, 0] > 0, low + 1, low)
    return values[low] * (1 - share) + values[high] * share


def cepstra(mel: NDArray[np.floating]) -> NDArray[np.float64]:
    """[N, 12] cepstra per video frame of mel50 [2 N, 80], each with mean 0 over the take."""
    frames = mel.astype(np.float64).reshape(-1, 2, mel.shape[1]).mean(axis=1)
    coefficients = np.asarray(dct(frames, axis=1, norm="ortho"))[:, 1 : NUM_CEPSTRA + 1]
    return coefficients - coefficients.mean(axis=0)


def _cost_by_chance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Cost of the cheapest path between cepstra a and b out of order; same corners, so lengths cancel in quotients.

    b is rotated by none, one and two thirds, backwards, and by one and two thirds forwards.
    """
    rotated = [np.roll(b, len(b) * thirds // 3, axis=0) for thirds in range(3)]
    orders = [*(order[::-1] for order in rotated), *rotated[1:]]
    return max(min(_accumulate(_distances(a, order))[0] for order in orders), 1e-9)


def _in_context(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 9 C] rows [N, C] with their neighbours, of length 1; the ends are repeated."""
    padded = np.pad(rows, ((_CONTEXT_FRAMES, _CONTEXT_FRAMES), (0, 0)), mode="edge")
    stacked = np.concatenate([padded[k : k + len(rows)] for k in range(2 * _CONTEXT_FRAMES + 1)], axis=1)
    return stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-6)


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """[Na, Nb] 1 - cosine of the rows of cepstra a and b with their neighbours."""
    return np.maximum(1 - _in_context(a) @ _in_context(b).T, 0)


@numba.njit(cache=True)
def _accumulate(cost: NDArray[np.float64]) -> tuple[float, NDArray[np.uint8]]:
    """Cost of the cheapest path between the corners, and [Na, Nb] the last step of the cheapest path to each cell.

    A step in both takes (0) counts twice, one in the first (1) or second (2) only is dearer than half of that.
    """
    total = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    steps = np.zeros(cost.shape, np.uint8)
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            best, side = total[i, j] + 2 * cost[i, j], _SIDE_STEP * cost[i, j]
            if total[i, j + 1] + side < best:
                best, steps[i, j] = total[i, j + 1] + side, 1
            if total[i + 1, j] + side < best:
                best, steps[i, j] = total[i + 1, j] + side, 2
            total[i + 1, j + 1] = best
    return total[-1, -1], steps


@numba.njit(cache=True)
def _path(steps: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[n, 2] cells from the first corner to the last by the steps of `_accumulate`."""
    i, j = steps.shape[0] - 1, steps.shape[1] - 1
    path = np.empty((i + j + 1, 2), np.int64)
    count = 0
    while i >= 0 and j >= 0:
        path[count] = (i, j)
        count += 1
        step = steps[i, j]
        i, j = i - (step != 2), j - (step != 1)
    return path[:count][::-1].copy()


def _smooth(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moving average; the ends are repeated, so it stays in range and never falls."""
    half = _SMOOTH_FRAMES // 2
    padded = np.pad(frames, half, mode="edge")
    smooth = np.convolve(padded, np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES), mode="valid")
    return smooth.clip(frames[0], frames[-1])  # rounding must not lead beyond the last frame
