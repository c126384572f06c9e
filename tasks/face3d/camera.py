"""The pinhole camera of the 3DMM line of work: focal length 1015 at 224 px, 10 units in front of the face.

A point p of the model (camera units, column vector) is seen at

    q = Rz(euler z) Ry(euler y) Rx(euler x) p + trans
    x_px = c + s 1015 q_x / (10 - q_z)
    y_px = c - s 1015 q_y / (10 - q_z)

with crop centre c = (size - 1) / 2 and s = size / 224; in row vectors, p @ R + trans with R = (Rz Ry Rx)^T.
Model and camera axes: x to the image right, y up, z towards the camera. Hence a positive euler x (pitch) lowers the
face, a positive euler y (yaw) turns it to the image right, a positive euler z (roll) turns it counter-clockwise.
"""

import numpy as np
from numpy.typing import NDArray

FOCAL_PX = 1015.0
IMAGE_PX = 224.0
DISTANCE = 10.0


def project(
    points: NDArray[np.floating], euler: NDArray[np.floating], trans: NDArray[np.floating], size_px: int
) -> NDArray[np.float64]:
    """Pixels [..., 68, 2] in a crop of `size_px`: points [..., 68, 3] (camera units) under euler and trans [..., 3]."""
    return to_pixels(project_centred(rotate(points, euler) + trans[..., None, :]), size_px)


def project_centred(posed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posed points [..., 3] to centred image coordinates [..., 2]: px at 224 px, origin in the centre, y up."""
    return np.asarray(FOCAL_PX * posed[..., :2] / (DISTANCE - posed[..., 2:]), np.float64)


def to_pixels(centred: NDArray[np.floating], size_px: int) -> NDArray[np.float64]:
    """Centred image coordinates [..., 2] to pixel coordinates in a crop of `size_px`."""
    return np.asarray(centred, np.float64) * (size_px / IMAGE_PX, -size_px / IMAGE_PX) + (size_px - 1) / 2


def to_centred(pixels: NDArray[np.floating], size_px: int) -> NDArray[np.float64]:
    """Inverse of `to_pixels`."""
    return (np.asarray(pixels, np.float64) - (size_px - 1) / 2) * (IMAGE_PX / size_px, -IMAGE_PX / size_px)


def rotation(euler: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rz Ry Rx [..., 3, 3], for column vectors, of euler [..., 3] radians about the fixed axes x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = (np.moveaxis(f(np.asarray(euler, np.float64)), -1, 0) for f in (np.cos, np.sin))
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def rotate(points: NDArray[np.floating], euler: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points [..., 68, 3] turned by euler [..., 3]."""
    return points @ rotation(euler).swapaxes(-1, -2)


def euler_angles(turn: NDArray[np.floating]) -> NDArray[np.float64]:
    """Inverse of `rotation`: euler [..., 3] of rotation matrices [..., 3, 3]; yaw in [-pi/2, pi/2]."""
    pitch = np.arctan2(turn[..., 2, 1], turn[..., 2, 2])
    yaw = np.arcsin(np.clip(-turn[..., 2, 0], -1, 1))
    roll = np.arctan2(turn[..., 1, 0], turn[..., 0, 0])
    return np.stack([pitch, yaw, roll], axis=-1)


def rotation_axes(euler: NDArray[np.floating]) -> NDArray[np.float64]:
    """Axes [..., 3, 3] (one per row) about which a small change of euler x, y, z turns an already turned point."""
    zeros, turn_zy = np.zeros_like(euler), np.array(euler, np.float64)
    turn_zy[..., 0] = 0
    turn_z = zeros.copy()
    turn_z[..., 2] = euler[..., 2]
    axis_x, axis_y = rotation(turn_zy)[..., :, 0], rotation(turn_z)[..., :, 1]
    return np.stack([axis_x, axis_y, np.broadcast_to((0.0, 0.0, 1.0), axis_x.shape)], axis=-2)
