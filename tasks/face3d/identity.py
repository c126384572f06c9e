"""Identity of one person: joint damped Gauss-Newton over a few frames with shared identity coefficients."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from tasks.face3d.shape_model import NUM_EXP, NUM_ID, ShapeModel

_MAX_STEPS = 12
_MIN_GAIN = 1e-3
_FIRST_DAMPING = 1e-2
_ROUNDS = 3


def fit_identity(
    landmarks: NDArray[np.floating], model: ShapeModel, settings: Settings, num_frames: int = 32
) -> NDArray[np.float64]:
    """Identity coefficients [80] that explain frames of one person, each with a pose and an expression of its own.

    Args:
        landmarks: [N, 68, 2] centred image coordinates (`camera.to_centred`) of any frames, NaN where missing.
        model: shape model.
        settings: objective; the smoothness terms are not used, because the frames are far apart.
        num_frames: largest number of frames to use, evenly spread over the usable ones.

    Returns:
        NaN everywhere when no frame is usable.
    """
    observed = np.asarray(landmarks, np.float64).swapaxes(1, 2)
    usable = np.flatnonzero(is_face_like(observed, model.mean * model.camera_scale))
    identity = np.full(NUM_ID, np.nan)
    for _ in range(_ROUNDS):
        if not len(usable):
            return np.full(NUM_ID, np.nan)
        chosen = usable[np.linspace(0, len(usable) - 1, min(num_frames, len(usable))).round().astype(int)]
        identity, residual = _Problem.of(observed[chosen], model, settings).solve()
        bad = chosen[is_bad_frame(residual, settings)]
        if not len(bad):
            break
        usable = np.setdiff1d(usable, bad)
    return identity


class _State(NamedTuple):
    """Poses of M frames and their coefficients [M, 64 + 80]: exp, then the id, the same in every row."""

    pose: Pose
    coefficients: NDArray[np.float64]

    def moved(self, step: NDArray[np.float64]) -> "_State":
        return _State(self.pose.moved(step), self.coefficients + step[:, NUM_POSE:])


class _Problem(NamedTuple):
    """The constants of one fit of M frames, lengths in camera units."""

    observed: NDArray[np.float64]  # [M, 2, 68]
    mean: NDArray[np.float64]  # [68, 3]
    basis: NDArray[np.float64]  # [68, 3, 64 + 80]: exp, then id
    settings: Settings

    @classmethod
    def of(cls, observed: NDArray[np.float64], model: ShapeModel, settings: Settings) -> "_Problem":
        """The problem of frames [M, 2, 68]."""
        basis = np.concatenate([model.exp_basis, model.id_basis], axis=2) * model.camera_scale
        return cls(observed, model.mean * model.camera_scale, basis, settings)

    def solve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Identity [80] and final residuals [M, 2, 68]: Levenberg-Marquardt, from the mean face in its best poses.

        Undamped steps can turn depth inside out, because identity and all poses change it together.
        """
        observed, mean, basis, settings = self
        points = np.broadcast_to(mean, (len(observed), *mean.shape))
        pose = initial_pose(observed, mean)
        for _ in range(settings.pose_steps):
            pose = pose_step(points, pose, observed, settings)
        state = _State(pose, np.zeros((len(observed), basis.shape[2])))
        residual = self.residuals(state)
        damping = _FIRST_DAMPING
        for _ in range(_MAX_STEPS):
            weights = robust_weights(residual, settings)
            normal, pull = self.normal_equations(state, residual, weights)
            trial = state.moved(_arrow_step(normal, pull, damping))
            left = self.residuals(trial)
            gain = 1 - self.cost(trial, left, weights) / self.cost(state, residual, weights)
            damping *= 0.1 if gain > 0 else 10
            state, residual = (trial, left) if gain > 0 else (state, residual)
            if 0 < gain < _MIN_GAIN:
                break
        return state.coefficients[0, NUM_EXP:], residual

    def residuals(self, state: _State) -> NDArray[np.float64]:
        """Landmark minus projection [M, 2, 68]."""
        return residuals(deformed(self.mean, self.basis, state.coefficients), state.pose, self.observed)

    def cost(self, state: _State, residual: NDArray, weights: NDArray) -> float:
        """The objective with the robust weights held, which bounds the robust one from above."""
        exp, identity = state.coefficients[:, :NUM_EXP], state.coefficients[0, NUM_EXP:]
        prior = self.settings.exp_prior * (exp**2).sum() + self.settings.id_prior * len(exp) * (identity**2).sum()
        return float((weights * (residual**2).sum(axis=1)).sum() + prior)

    def normal_equations(
        self, state: _State, residual: NDArray, weights: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Per frame the matrix [M, 150, 150] and right side [M, 150]."""
        scale, num_frames = np.sqrt(weights), len(residual)
        points = deformed(self.mean, self.basis, state.coefficients)
        rows = jacobian(points, state.pose, self.basis, scale)
        rows = rows.reshape(num_frames, -1, NUM_POSE + self.basis.shape[2])
        priors = (1e-6, self.settings.exp_prior, self.settings.id_prior)
        prior = np.repeat(priors, (NUM_POSE, NUM_EXP, NUM_ID))
        normal = rows.swapaxes(1, 2) @ rows + np.diag(prior)
        pull = (rows.swapaxes(1, 2) @ (residual * scale[:, None]).reshape(num_frames, -1, 1))[..., 0]
        pull[:, NUM_POSE:] -= prior[NUM_POSE:] * state.coefficients
        return normal, pull


def _arrow_step(normal: NDArray[np.float64], pull: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """Step [M, 6 + 64 + 80], the last 80 equal in all frames, damped in proportion to the diagonal.

    Frames meet only in the identity. Eliminating the pose and expression of each leaves one 80 x 80 system.
    """
    own = NUM_POSE + NUM_EXP
    normal = normal + damping * np.eye(normal.shape[1]) * np.diagonal(normal, axis1=1, axis2=2)[:, None]
    right = np.concatenate([normal[:, :own, own:], pull[:, :own, None]], axis=2)
    eliminated = np.linalg.solve(normal[:, :own, :own], right)
    reduced = normal[:, own:, own:] - normal[:, own:, :own] @ eliminated[..., :-1]
    left_over = pull[:, own:] - (normal[:, own:, :own] @ eliminated[..., -1:])[..., 0]
    shared = np.linalg.solve(reduced.sum(axis=0), left_over.sum(axis=0))
    frames = eliminated[..., -1] - eliminated[..., :-1] @ shared
    return np.concatenate([frames, np.broadcast_to(shared, (len(frames), NUM_ID))], axis=1)
