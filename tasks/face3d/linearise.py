"""Residuals of the landmarks and their exact Jacobian; robust weights; the closed-form start.

Image coordinates are centred ones (see camera), stored component first: [N, 2, 68].
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.face3d import camera
from tasks.face3d.settings import Settings

NUM_POSE = 6
_MEDIAN_OF_NORM = 1.1774  # median length of a 2-D normal vector of unit standard deviation
_MAX_EULER_STEP_RAD = 0.5
_MAX_TRANS_STEP = 3.0
_MIN_EXTENT_PX = 1.0
_MAX_START_ERROR = 0.3


class Pose(NamedTuple):
    """Head poses of N frames: euler [N, 3] radians and trans [N, 3] camera units."""

    euler: NDArray[np.float64]
    trans: NDArray[np.float64]

    def moved(self, step: NDArray[np.float64]) -> "Pose":
        """Pose after a step [N, 6], bounded so that a single wild frame stays finite and in front of the camera."""
        euler = self.euler + np.clip(step[:, :3], -_MAX_EULER_STEP_RAD, _MAX_EULER_STEP_RAD)
        trans = self.trans + np.clip(step[:, 3:6], -_MAX_TRANS_STEP, _MAX_TRANS_STEP)
        trans[:, 2] = np.minimum(trans[:, 2], 0.8 * camera.DISTANCE)
        return Pose(euler, trans)


def initial_pose(observed: NDArray[np.float64], mean: NDArray[np.float64]) -> Pose:
    """Closed form: best affine view of `mean` [68, 3] in `observed` [N, 2, 68], then the nearest scaled rotation."""
    centre = observed.mean(axis=2)
    affine = (observed - centre[:, :, None]) @ np.linalg.pinv((mean - mean.mean(axis=0)).T)
    left, stretch, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    turn = np.stack([rows[:, 0], rows[:, 1], np.cross(rows[:, 0], rows[:, 1])], axis=1)
    depth = camera.FOCAL_PX / np.maximum(stretch.mean(axis=1), 1e-3)
    middle = np.concatenate([centre * depth[:, None] / camera.FOCAL_PX, camera.DISTANCE - depth[:, None]], axis=1)
    euler = np.unwrap(camera.euler_angles(turn), axis=0)
    return Pose(euler, middle - camera.rotate(mean.mean(axis=0)[None, None], euler)[:, 0])


def deformed(
    mean: NDArray[np.float64], basis: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Points [N, 68, 3] of mean [68, 3] and basis [68, 3, K] under coefficients [N, K]."""
    return mean + (coefficients @ basis.reshape(-1, basis.shape[2]).T).reshape(len(coefficients), *mean.shape)


def residuals(points: NDArray[np.float64], pose: Pose, observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Landmark minus projection [N, 2, 68] of points [N, 68, 3]."""
    seen = camera.project_centred(camera.rotate(points, pose.euler) + pose.trans[:, None])
    return observed - seen.swapaxes(1, 2)


def jacobian(
    points: NDArray[np.float64], pose: Pose, basis: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Derivative [N, 2, 68, 6 + K] of the projections by euler, trans and the coefficients of `basis` [68, 3, K].

    Every row is multiplied by `scale` [N, 68]: weighting here costs less than weighting the result.
    """
    num_frames, num_points = scale.shape
    turned = camera.rotate(points, pose.euler)
    posed = turned + pose.trans[:, None]
    gain = scale / (camera.DISTANCE - posed[..., 2])
    view = np.zeros((num_frames, 2, num_points, 3))  # of the image point by the posed point
    view[:, 0, :, 0] = view[:, 1, :, 1] = camera.FOCAL_PX * gain
    view[..., 2] = camera.project_centred(posed).swapaxes(1, 2) * gain[:, None]
    result = np.empty((num_frames, 2, num_points, NUM_POSE + basis.shape[2]))
    axes = camera.rotation_axes(pose.euler)
    for angle in range(3):
        swing = np.cross(axes[:, None, angle], turned)
        result[..., angle] = sum(view[..., axis] * swing[:, None, :, axis] for axis in range(3))
    result[..., 3:6] = view
    by_point = (view @ camera.rotation(pose.euler)[:, None]).reshape(2 * num_frames, num_points, 3).swapaxes(0, 1)
    rows = result.reshape(2 * num_frames, num_points, -1).swapaxes(0, 1)
    np.matmul(np.ascontiguousarray(by_point), basis, out=rows[..., NUM_POSE:])
    return result


def robust_weights(residual: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    """Inverse variances [N, 68] of the points for one reweighted least-squares step (Cauchy)."""
    length = np.sqrt((residual**2).sum(axis=1))
    spread = max(float(np.median(length)) / _MEDIAN_OF_NORM, settings.landmark_sigma_px)
    influence = 1 / (1 + (length / (settings.robust_cut * spread)) ** 2)
    return settings.point_weights() * influence / settings.landmark_sigma_px**2


def pose_step(points: NDArray[np.float64], pose: Pose, observed: NDArray[np.float64], settings: Settings) -> Pose:
    """One Gauss-Newton step of the pose of each frame alone, shape held."""
    residual = residuals(points, pose, observed)
    scale = np.sqrt(robust_weights(residual, settings))
    rows = jacobian(points, pose, np.empty((points.shape[-2], 3, 0)), scale).reshape(len(observed), -1, NUM_POSE)
    pull = rows.swapaxes(1, 2) @ (residual * scale[:, None]).reshape(len(observed), -1, 1)
    normal = rows.swapaxes(1, 2) @ rows + 1e-6 * np.eye(NUM_POSE)
    return pose.moved(np.asarray(np.linalg.solve(normal, pull)[..., 0], np.float64))


def is_bad_frame(residual: NDArray[np.float64], settings: Settings) -> NDArray[np.bool_]:
    """[N] bool: the median residual of the frame is far beyond that of the other frames and beyond the noise."""
    level = _frame_level(residual)
    usual = max(float(np.median(level)), settings.landmark_sigma_px)
    return level > settings.bad_frame_ratio * usual


def is_face_like(observed: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[N] bool: finite frames that `mean` [68, 3], turned and scaled, explains to 30 % of their extent.

    False for NaN, for points that coincide and for scattered ones: nothing that a Gauss-Newton step should start from.
    """
    result = np.zeros(len(observed), np.bool_)
    finite = np.flatnonzero(np.isfinite(observed).all(axis=(1, 2)))
    if len(finite):
        known = observed[finite]
        left = residuals(np.broadcast_to(mean, (len(known), *mean.shape)), initial_pose(known, mean), known)
        extent = known.std(axis=2).max(axis=1)
        result[finite] = (extent > _MIN_EXTENT_PX) & (_frame_level(left) < _MAX_START_ERROR * extent)
    return result


def _frame_level(residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median landmark distance [N] of each frame."""
    return np.median(np.sqrt((residual**2).sum(axis=1)), axis=1)
