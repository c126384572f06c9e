"""3DMM fit: Gauss-Newton against Adam on the same objective, one thread, one run: `python -m benchmarks.face3d`.

Synthetic talking head of 125 frames drawn from gp80x64, 0.5 px landmark noise at 224 px; CPU time, best of three
(Adam: one run). The identity fit is counted once per subject, the clip fit once per clip.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.face3d.gaussian_process import gaussian_process_model
from tasks.face3d.identity import fit_identity
from tasks.face3d.settings import Settings
from tasks.face3d.track import fit_track
from tests.tasks.face3d.adam import fit_adam
from tests.tasks.face3d.synthetic import Scene, make_scene, project, rms, shape_error

NUM_SEEDS = 3


def main() -> None:
    """Print one table row per scene."""
    import torch

    torch.set_num_threads(1)
    _row(0)  # warm-up: first calls load code
    head = "seed | Adam ms | id ms | clip ms (per frame) | Adam/clip | Adam/(id+clip)"
    print(f"{head} | RMS px GN, Adam | 3-D error GN, Adam")
    rows = np.array([_row(seed) for seed in range(NUM_SEEDS)])
    for seed, row in enumerate(rows):
        _print_row(str(seed), row)
    _print_row("mean", rows.mean(axis=0))


def _row(seed: int) -> list[float]:
    model, settings = gaussian_process_model(), Settings(landmark_sigma_px=0.5)
    scene = make_scene(model, seed)
    adam_s, (adam_id, adam_exp, adam_euler, adam_trans) = _timed(lambda: fit_adam(scene.observed, model, settings), 1)
    id_s, identity = _timed(lambda: fit_identity(scene.observed, model, settings), 3)
    clip_s, track = _timed(lambda: fit_track(scene.observed, model, identity, settings), 3)
    ours = _errors(scene, model.points(identity, track.exp), track.euler, track.trans)
    theirs = _errors(scene, model.points(adam_id, adam_exp), adam_euler, adam_trans)
    return [adam_s * 1e3, id_s * 1e3, clip_s * 1e3, ours[0], theirs[0], ours[1], theirs[1]]


def _errors(scene: Scene, points: NDArray, euler: NDArray, trans: NDArray) -> tuple[float, float]:
    """Reprojection against the noisy landmarks, px at 224 px, and 3-D error in outer-eye-corner distances."""
    seen = project(gaussian_process_model(), points, euler, trans)
    return rms(seen - scene.observed), shape_error(points, scene.points)


def _timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    times, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def _print_row(name: str, row: NDArray) -> None:
    adam, identity, clip, rms_ours, rms_theirs, shape_ours, shape_theirs = row
    print(
        f"{name:4} | {adam:7.0f} | {identity:5.1f} | {clip:7.1f} ({clip / 125:.3f}) | {adam / clip:9.1f} | "
        f"{adam / (identity + clip):14.1f} | {rms_ours:.3f}, {rms_theirs:.3f} | {shape_ours:.4f}, {shape_theirs:.4f}"
    )


if __name__ == "__main__":
    main()
