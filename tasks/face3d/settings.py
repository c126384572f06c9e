"""Settings: the objective that the solver minimises, as noise and step sizes with units."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}


class Settings(BaseModel):
    """Negative log posterior of a fit, up to a constant; px are px at 224 px.

        sum over frames, points of weight rho(|landmark - projection| / landmark_sigma_px)
        + id_prior N |id|^2 + exp_prior sum |exp|^2
        + sum over neighbouring frames of |change of exp|^2 / exp_step^2, likewise euler and trans

    rho(r) is r^2 near 0 and grows like a logarithm beyond robust_cut (Cauchy), so that a wrong point is outvoted. A
    change across a gap of g frames is divided by g (a random walk integrated over the frames in between).

    Attributes:
        landmark_sigma_px: noise of one landmark coordinate, model error included.
        weight_jaw, weight_brows, weight_nose, weight_eyes, weight_mouth: weight of the point group; the jaw is a
            silhouette and slides over the skin when the head turns.
        id_prior, exp_prior: strength of the N(0, 1) priors of the coefficients, that of identity per frame. Once for
            all frames is too little for the joint optimum of identity, poses and expressions: a deep face that hardly
            turns then costs less than one that turns and talks, and yaw shrinks to a third.
        exp_step, euler_step_rad, trans_step: usual change from frame to frame; trans in camera units (about 100 mm).
        robust_cut: residual, in standard deviations of the clip, from which on a point loses influence.
        bad_frame_ratio: a frame whose median residual exceeds this many times the usual one is masked.
        pose_steps, joint_steps: Gauss-Newton steps of pose alone, then of pose and expression.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    landmark_sigma_px: float = Field(default=1.0, gt=0)
    weight_jaw: float = Field(default=0.5, ge=0)
    weight_brows: float = Field(default=1.0, ge=0)
    weight_nose: float = Field(default=1.0, ge=0)
    weight_eyes: float = Field(default=2.0, ge=0)
    weight_mouth: float = Field(default=2.0, ge=0)
    id_prior: float = Field(default=3.0, gt=0)
    exp_prior: float = Field(default=1.0, gt=0)
    exp_step: float = Field(default=0.5, gt=0)
    euler_step_rad: float = Field(default=0.02, gt=0)
    trans_step: float = Field(default=0.1, gt=0)
    robust_cut: float = Field(default=4.0, gt=0)
    bad_frame_ratio: float = Field(default=4.0, gt=1)
    pose_steps: int = Field(default=1, ge=1)
    joint_steps: int = Field(default=2, ge=1)

    def point_weights(self) -> NDArray[np.float64]:
        """Weights [68] of the points."""
        weights = np.zeros(68)
        for name, (first, last) in _GROUPS.items():
            weights[first:last] = getattr(self, f"weight_{name}")
        return weights
