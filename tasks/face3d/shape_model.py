"""ShapeModel: a linear model of the 68 face points in 3-D."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_POINTS = 68
NUM_ID = 80
NUM_EXP = 64


@dataclass(frozen=True)
class ShapeModel:
    """points = mean + id_basis @ id + exp_basis @ exp; x to the image right, y up, z towards the camera.

    Both bases are scaled by their prior sigmas, so that every coefficient has the prior N(0, 1).

    Attributes:
        name: stored with every fit; coefficients of models with different names are not comparable.
        identity: changes whenever the numbers below change; part of what a fit is stored under.
        unit: length unit of the points, for example "outer-eye-corner distance".
        mean: [68, 3] float64, iBUG-68 order, centred near the origin.
        id_basis: [68, 3, 80] float64.
        exp_basis: [68, 3, 64] float64.
        camera_scale: camera units (about 100 mm) per model unit.
    """

    name: str
    identity: str
    unit: str
    mean: NDArray[np.float64]
    id_basis: NDArray[np.float64]
    exp_basis: NDArray[np.float64]
    camera_scale: float

    def points(self, identity: NDArray, expression: NDArray) -> NDArray[np.float64]:
        """Pose-free points [..., 68, 3] in model units of id [80] and exp [..., 64]."""
        identity_part = self.id_basis @ identity
        return self.mean + identity_part + np.moveaxis(self.exp_basis @ np.moveaxis(expression, -1, 0), -1, 0)
