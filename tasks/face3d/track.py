"""Pose and expression of every frame of a clip, identity known: banded Gauss-Newton over the whole clip at once."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

from tasks.face3d.linearise import (
    NUM_POSE,
    Pose,
    deformed,
    initial_pose,
    is_bad_frame,
    is_face_like,
    jacobian,
    pose_step,
    residuals,
    robust_weights,
)
from tasks.face3d.settings import Settings
from tasks.face3d.shape_model import NUM_EXP, ShapeModel

_ROUNDS = 3
_SIZE = NUM_POSE + NUM_EXP
_POSE_RIDGE = 1e-6
_CHUNK = 16  # frames whose Jacobians are held at once: they stay in the processor's cache


@dataclass(frozen=True)
class Track:
    """Fit of N frames.

    Attributes:
        is_fitted: [N] bool; all else is NaN where False.
        exp: [N, 64].
        euler: [N, 3] radians.
        trans: [N, 3] camera units.
        residual_px: [N] root mean square of the landmark distances, px at 224 px.
    """

    is_fitted: NDArray[np.bool_]
    exp: NDArray[np.float64]
    euler: NDArray[np.float64]
    trans: NDArray[np.float64]
    residual_px: NDArray[np.float64]


def fit_track(
    landmarks: NDArray[np.floating], model: ShapeModel, identity: NDArray[np.floating], settings: Settings
) -> Track:
    """Fit consecutive frames.

    Args:
        landmarks: [N, 68, 2] centred image coordinates (`camera.to_centred`), NaN rows where missing.
        model: shape model.
        identity: [80] coefficients, from `fit_identity`; when NaN, no frame is fitted.
        settings: objective.

    Frames without landmarks, or with landmarks that are no face of this person, are left out of the system rather
    than filled: their neighbours are tied to each other across the gap, more loosely the longer it is.
    """
    observed = np.asarray(landmarks, np.float64).swapaxes(1, 2)
    mean = (model.mean + model.id_basis @ np.asarray(identity, np.float64)) * model.camera_scale
    basis = model.exp_basis * model.camera_scale
    is_fitted = is_face_like(observed, mean) if np.isfinite(mean).all() else np.zeros(len(observed), np.bool_)
    states, residual = np.zeros((0, _SIZE)), np.zeros((0, 2, len(mean)))
    for _ in range(_ROUNDS):
        frames = np.flatnonzero(is_fitted)
        if not len(frames):
            break
        states, residual = _Problem(observed[frames], mean, basis, np.diff(frames), settings).solve()
        bad = is_bad_frame(residual, settings)
        if not bad.any():
            break
        is_fitted[frames[bad]] = False
        states, residual = states[~bad], residual[~bad]
    everywhere = np.full((len(is_fitted), _SIZE + 1), np.nan)
    everywhere[is_fitted, :_SIZE] = states
    everywhere[is_fitted, _SIZE] = np.sqrt((residual**2).sum(axis=1).mean(axis=1))
    euler, trans, exp, rms = np.split(everywhere, (3, NUM_POSE, _SIZE), axis=1)
    return Track(is_fitted, exp, euler, trans, rms[:, 0])


class _Problem(NamedTuple):
    """The constants of one fit of M usable frames, lengths in camera units."""

    observed: NDArray[np.float64]  # [M, 2, 68]
    mean: NDArray[np.float64]  # [68, 3] this person's face without expression
    basis: NDArray[np.float64]  # [68, 3, 64]
    gaps: NDArray[np.int64]  # [M - 1] frames from one to the next
    settings: Settings

    def solve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """States [M, 6 + 64] (euler, trans, exp) and residuals [M, 2, 68]."""
        observed, mean, basis, _, settings = self
        points = np.broadcast_to(mean, (len(observed), *mean.shape))
        pose = initial_pose(observed, mean)
        for _ in range(settings.pose_steps):
            pose = pose_step(points, pose, observed, settings)
        exp = np.zeros((len(observed), NUM_EXP))
        band = np.zeros((len(observed), _SIZE, _SIZE + 1))  # reused: fresh memory costs as much as the sums
        for _ in range(settings.joint_steps):
            step = self.joint_step(points, pose, exp, band)
            pose, exp = pose.moved(step), exp + step[:, NUM_POSE:]
            points = deformed(mean, basis, exp)
        return np.concatenate([*pose, exp], axis=1), residuals(points, pose, observed)

    def joint_step(
        self,
        points: NDArray[np.float64],
        pose: Pose,
        exp: NDArray[np.float64],
        band: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Gauss-Newton step [M, 6 + 64] of all frames together; `band` [M, 70, 71] is scratch memory."""
        observed, _, basis, _, settings = self
        residual = residuals(points, pose, observed)
        scale = np.sqrt(robust_weights(residual, settings))
        weighted = (residual * scale[:, None]).reshape(len(observed), -1, 1)
        strength, coupling, force = self.priors(np.concatenate([*pose, exp], axis=1))
        sheared, normal, diagonal = _sheared(min(_CHUNK, len(observed)))
        for first in range(0, len(observed), _CHUNK):
            part = slice(first, first + _CHUNK)
            rows = jacobian(points[part], Pose(pose.euler[part], pose.trans[part]), basis, scale[part])
            rows = rows.reshape(len(rows), -1, _SIZE)
            np.matmul(rows.swapaxes(1, 2), rows, out=normal[: len(rows)])
            diagonal[: len(rows)] += strength[part]
            band[part, :, :_SIZE] = sheared[: len(rows)]
            force[part] += (rows.swapaxes(1, 2) @ weighted[part])[..., 0]
        band[:-1, :, _SIZE], band[-1, :, _SIZE] = -coupling, 0
        lower = band.reshape(-1, _SIZE + 1).T
        return solveh_banded(lower, force.ravel(), True, True, True, False).reshape(-1, _SIZE)

    def priors(
        self, state: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Prior and smoothness at `state` [M, 70]: diagonal [M, 70], tie to the next [M - 1, 70], right side."""
        settings = self.settings
        prior = np.repeat((_POSE_RIDGE, settings.exp_prior), (NUM_POSE, NUM_EXP))
        steps = np.repeat((settings.euler_step_rad, settings.trans_step, settings.exp_step), (3, 3, NUM_EXP))
        coupling = 1 / (steps**2 * self.gaps[:, None])
        strength = np.tile(prior, (len(state), 1))
        strength[:-1] += coupling
        strength[1:] += coupling
        force = -prior * state
        force[:, :NUM_POSE] = 0  # the ridge only damps the step
        tension = coupling * np.diff(state, axis=0)
        force[:-1] += tension
        force[1:] -= tension
        return strength, coupling, force


def _sheared(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Three views of one buffer: columns from the diagonal downwards, the matrices, their diagonals.

    LAPACK reads the lower half of the block-tridiagonal matrix as its columns read from the diagonal downwards. Of a
    symmetric block [70, 70] followed by zeros, column j is row j read from entry j on: the buffer seen with the row
    stride one entry longer.
    """
    buffer = np.zeros((count, _SIZE, 2 * _SIZE))
    frame, row, entry = buffer.strides
    sheared = as_strided(buffer, (count, _SIZE, _SIZE), (frame, row + entry, entry))
    return sheared, buffer[..., :_SIZE], sheared[..., 0]
