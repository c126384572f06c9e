"""A talking head with known identity, expression and pose, drawn from a shape model's own prior."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.face3d import camera
from tasks.face3d.shape_model import NUM_EXP, NUM_ID, ShapeModel


@dataclass(frozen=True)
class Scene:
    """N frames: what was drawn, its exact projection, and the same with landmark noise (centred px at 224 px)."""

    identity: NDArray[np.float64]  # [80]
    exp: NDArray[np.float64]  # [N, 64]
    euler: NDArray[np.float64]  # [N, 3]
    trans: NDArray[np.float64]  # [N, 3]
    points: NDArray[np.float64]  # [N, 68, 3] model units, no pose
    clean: NDArray[np.float64]  # [N, 68, 2]
    observed: NDArray[np.float64]  # [N, 68, 2]


def make_scene(model: ShapeModel, seed: int = 0, num_frames: int = 125, noise_px: float = 0.5) -> Scene:
    """Speech-like motion: expression changes within 3 frames, the pose within 12 to 15; yaw of some 14 degrees."""
    rng = np.random.default_rng(seed)
    identity = rng.standard_normal(NUM_ID)
    exp = 0.7 * smooth_noise(rng, num_frames, NUM_EXP, 3)
    euler = smooth_noise(rng, num_frames, 3, 12) * (0.1, 0.25, 0.08)
    trans = smooth_noise(rng, num_frames, 3, 15) * (0.1, 0.1, 0.3) + (0, 0, -2.5)
    points = model.points(identity, exp)
    clean = project(model, points, euler, trans)
    observed = clean + noise_px * rng.standard_normal(clean.shape)
    return Scene(identity, exp, euler, trans, points, clean, observed)


def smooth_noise(rng: np.random.Generator, num_frames: int, num_channels: int, length: float) -> NDArray[np.float64]:
    """Unit-variance Gaussian processes over the frames, [N, C]."""
    time = np.arange(num_frames)
    values, vectors = np.linalg.eigh(np.exp(-((time[:, None] - time) ** 2) / (2 * length**2)))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ rng.standard_normal((num_frames, num_channels))


def project(model: ShapeModel, points: NDArray, euler: NDArray, trans: NDArray) -> NDArray[np.float64]:
    """Centred image coordinates [N, 68, 2] of points [N, 68, 3] in model units."""
    return camera.project_centred(camera.rotate(points * model.camera_scale, euler) + trans[:, None])


def rms(vectors: NDArray) -> float:
    """Root mean square length of vectors [..., C]."""
    return float(np.sqrt((vectors**2).sum(axis=-1).mean()))


def shape_error(points: NDArray, truth: NDArray) -> float:
    """Root mean square distance of points [N, 68, 3], each frame's mean offset (which is part of trans) removed."""
    difference = points - truth
    return rms(difference - difference.mean(axis=1, keepdims=True))
