"""The embedded shape model gp80x64: a fixed mean face deformed by Gaussian-process modes.

After Luethi et al., Gaussian Process Morphable Models, PAMI 2018. Identity is a smooth, mirror-symmetric deformation;
expression a shorter-ranged, free one. Neither is learned from faces: the coefficients explain landmarks as well as
those of a statistical model do, but they mean something else. They are NOT comparable with BFM coefficients.

x and y of the mean are a symmetric average of frontal landmarks. z is a polynomial and a nose bump, fitted to a
canonical head at the 68 points and rounded (error 6 % of the outer-eye-corner distance, without the nose).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tasks.face3d.shape_model import NUM_EXP, NUM_ID, ShapeModel

NAME = "gp80x64"
_REVISION = 1  # raise with any change of the numbers below

ID_LENGTH, ID_SIGMA = 0.6, 0.05  # in outer-eye-corner distances, as are all lengths here
EXP_LENGTH, EXP_SIGMA = 0.25, 0.03
EYE_CORNERS_CAMERA_UNITS = 0.9  # outer eye corners are some 90 mm apart

# fmt: off
_MEAN_XY = (
    (-0.822, 0.426), (-0.817, 0.209), (-0.793, -0.008), (-0.748, -0.220), (-0.664, -0.418), (-0.533, -0.589),
    (-0.374, -0.731), (-0.199, -0.846), (0.0, -0.880), (0.199, -0.846), (0.374, -0.731), (0.533, -0.589),
    (0.664, -0.418), (0.748, -0.220), (0.793, -0.008), (0.817, 0.209), (0.822, 0.426),
    (-0.665, 0.586), (-0.564, 0.677), (-0.420, 0.705), (-0.271, 0.683), (-0.131, 0.625),
    (0.131, 0.625), (0.271, 0.683), (0.420, 0.705), (0.564, 0.677), (0.665, 0.586),
    (0.0, 0.455), (0.0, 0.315), (0.0, 0.176), (0.0, 0.033),
    (-0.167, -0.064), (-0.087, -0.093), (0.0, -0.118), (0.087, -0.093), (0.167, -0.064),
    (-0.500, 0.438), (-0.411, 0.489), (-0.304, 0.487), (-0.211, 0.417), (-0.311, 0.399), (-0.417, 0.400),
    (0.211, 0.417), (0.304, 0.487), (0.411, 0.489), (0.500, 0.438), (0.417, 0.400), (0.311, 0.399),
    (-0.320, -0.323), (-0.202, -0.276), (-0.083, -0.252), (0.0, -0.273), (0.083, -0.252), (0.202, -0.276),
    (0.320, -0.323), (0.206, -0.438), (0.090, -0.489), (0.0, -0.499), (-0.090, -0.489), (-0.206, -0.438),
    (-0.271, -0.330), (-0.084, -0.321), (0.0, -0.330), (0.084, -0.321), (0.271, -0.330),
    (0.086, -0.384), (0.0, -0.394), (-0.086, -0.384),
)
_NOSE_BUMP = {27: 0.0, 28: 0.10, 29: 0.20, 30: 0.24, 31: 0.06, 32: 0.06, 33: 0.07, 34: 0.06, 35: 0.06}
# fmt: on


@cache
def gaussian_process_model() -> ShapeModel:
    """The embedded model; unit: distance of the outer eye corners. The same numbers on every machine to about 1e-12."""
    x, y = np.array(_MEAN_XY).T
    bump = np.zeros(len(x))
    bump[list(_NOSE_BUMP)] = list(_NOSE_BUMP.values())
    z = -1.43 * x**2 + 0.85 * x**2 * y - 0.07 * y**2 + 0.02 * y + bump
    mean = np.stack([x, y, z], axis=1)
    mean = mean - mean.mean(axis=0)
    # Expression is unconstrained; equal modes come in the order y, x, z.
    modes, values = _eigenmodes(_kernel(mean, EXP_LENGTH))
    exp_axes = np.repeat((1, 0, 2), len(mean))
    exp_basis = _basis(np.tile(modes, 3), exp_axes, np.tile(values, 3), EXP_SIGMA, NUM_EXP)
    identity = f"{NAME}/{_REVISION}"
    return ShapeModel(
        NAME, identity, "outer-eye-corner distance", mean, _identity_basis(mean), exp_basis, EYE_CORNERS_CAMERA_UNITS
    )


def _kernel(mean: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Squared-exponential covariance [68, 68] of a scalar field at the points."""
    distance2 = ((mean[:, None] - mean[None]) ** 2).sum(axis=2)
    return np.exp(-distance2 / (2 * length**2))


def _identity_basis(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mirror-symmetric modes [68, 3, 80].

    A deformation is its own mirror image when its x part is odd and its y and z parts are even under the mirror.
    Symmetrising doubles the variance of what remains, so that the variance per point stays that of the kernel.
    """
    kernel = _kernel(mean, ID_LENGTH)
    mirrored = np.argmin(((mean[:, None] * (-1, 1, 1) - mean[None]) ** 2).sum(axis=2), axis=1)
    odd, odd_values = _eigenmodes((kernel - kernel[:, mirrored]) / 2)
    even, even_values = _eigenmodes((kernel + kernel[:, mirrored]) / 2)
    modes = np.concatenate([odd, even, even], axis=1)
    axes = np.repeat((0, 1, 2), len(mean))
    variances = 2 * np.concatenate([odd_values, even_values, even_values])
    return _basis(modes, axes, variances, ID_SIGMA, NUM_ID)


def _eigenmodes(kernel: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Eigenvectors [68, 68] in columns, eigenvalues [68]; the largest entry of the left half face is positive."""
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    left = np.array(_MEAN_XY)[:, 0] <= 0  # mirrored entries have equal size: the right half must not decide
    peaks = np.abs(np.round(vectors[left], 6)).argmax(axis=0)
    signs = np.where(vectors[left][peaks, np.arange(len(values))] < 0, -1.0, 1.0)
    return vectors * signs, np.maximum(values, 0)


def _basis(modes: NDArray, axes: NDArray, variances: NDArray, sigma: float, count: int) -> NDArray[np.float64]:
    """The `count` scalar fields of largest variance, each put on its axis and scaled: basis [68, 3, count].

    Equal variances (the same field on several axes) keep their given order.
    """
    order = np.argsort(-np.round(variances, 9), kind="stable")[:count]
    basis = np.zeros((modes.shape[0], 3, count))
    basis[:, axes[order], np.arange(count)] = modes[:, order] * (sigma * np.sqrt(variances[order]))
    return basis
