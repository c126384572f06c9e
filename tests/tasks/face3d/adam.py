"""The reference to beat: the same objective minimised by Adam, 200 pose steps, 200 of everything, 50 fine ones.

The schedule is that of GeneFace++ as its paper line describes it; here the fine stage counts.
"""

import torch
from numpy.typing import NDArray

from tasks.face3d import camera
from tasks.face3d.settings import Settings
from tasks.face3d.shape_model import NUM_EXP, NUM_ID, ShapeModel


def fit_adam(observed: NDArray, model: ShapeModel, settings: Settings) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """id [80], exp [N, 64], euler [N, 3], trans [N, 3] of centred landmarks [N, 68, 2]; plain squared error."""
    count = len(observed)
    identity, exp = torch.zeros(NUM_ID), torch.zeros(count, NUM_EXP)
    euler, trans = torch.zeros(count, 3), torch.zeros(count, 3)
    unknowns = [identity.requires_grad_(), exp.requires_grad_(), euler.requires_grad_(), trans.requires_grad_()]
    constants = _constants(observed, model, settings)
    for steps, rate, chosen in ((200, 0.1, unknowns[2:]), (200, 0.1, unknowns), (50, 0.005, unknowns[1:])):
        optimiser = torch.optim.Adam(chosen, lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            _loss(*unknowns, *constants, settings).backward()
            optimiser.step()
    result = [unknown.detach().double().numpy() for unknown in unknowns]
    return result[0], result[1], result[2], result[3]


def _constants(observed: NDArray, model: ShapeModel, settings: Settings) -> list[torch.Tensor]:
    scaled = [array * model.camera_scale for array in (model.mean, model.id_basis, model.exp_basis)]
    return [torch.tensor(array, dtype=torch.float32) for array in (*scaled, observed, settings.point_weights())]


def _loss(identity, exp, euler, trans, mean, id_basis, exp_basis, observed, weights, settings) -> torch.Tensor:
    points = mean + id_basis @ identity + torch.einsum("pxk,nk->npx", exp_basis, exp)
    posed = points @ _rotation(euler).transpose(1, 2) + trans[:, None]
    seen = camera.FOCAL_PX * posed[..., :2] / (camera.DISTANCE - posed[..., 2:])
    loss = (weights * ((seen - observed) ** 2).sum(2)).sum() / settings.landmark_sigma_px**2
    loss = loss + settings.id_prior * len(exp) * (identity**2).sum() + settings.exp_prior * (exp**2).sum()
    steps = (settings.exp_step, settings.euler_step_rad, settings.trans_step)
    for values, step in zip((exp, euler, trans), steps, strict=True):
        loss = loss + ((values[1:] - values[:-1]) ** 2).sum() / step**2
    return loss


def _rotation(euler: torch.Tensor) -> torch.Tensor:
    (cx, cy, cz), (sx, sy, sz) = euler.cos().unbind(1), euler.sin().unbind(1)
    zero, one = torch.zeros_like(cx), torch.ones_like(cx)
    turn_x = torch.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx], 1).view(-1, 3, 3)
    turn_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], 1).view(-1, 3, 3)
    turn_z = torch.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one], 1).view(-1, 3, 3)
    return turn_z @ turn_y @ turn_x
