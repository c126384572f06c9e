"""Adapter for BFM_model_front.mat, the Basel Face Model 2009 as cut for Deep3DFaceRecon.

The file is licensed; the user supplies it.

Paysan et al., A 3D Face Model for Pose and Illumination Invariant Face Recognition, AVSS 2009.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError
from tasks.face3d.shape_model import NUM_EXP, NUM_ID, NUM_POINTS, ShapeModel

_KEYS = ("meanshape", "idBase", "exBase", "keypoints")


@cache
def read_bfm(path: Path, sha256: str) -> ShapeModel:
    """The 68 key points of the model in `path`; unit: 100 mm.

    Raises:
        ConfigError: the file is absent, is another one than `sha256` says, is no MATLAB file, lacks one of meanshape
            [1, 3 V], idBase [3 V, 80], exBase [3 V, 64] and keypoints [1, 68] (1-based), or has other shapes.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; face3d's shape_model names it")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256.lower():
        raise ConfigError(f"{path}: sha256 is {found}, expected {sha256}; correct shape_model_sha256 or the file")
    variables = _variables(path)
    mean = variables["meanshape"].astype(np.float64).reshape(-1, 3)
    points = variables["keypoints"].astype(np.int64).ravel() - 1  # MATLAB counts from 1
    size = variables["meanshape"].size
    shapes = ((1, size), (size, NUM_ID), (size, NUM_EXP), (1, NUM_POINTS))
    for key, shape in zip(_KEYS, shapes, strict=True):
        if variables[key].shape != shape:
            raise ConfigError(f"{path}: {key} is {variables[key].shape}, expected {shape}; use BFM_model_front.mat")
    if points.min() < 0 or points.max() >= size // 3:
        raise ConfigError(f"{path}: keypoints run in {points.min() + 1}..{points.max() + 1}, not in 1..{size // 3}")
    basis = {key: variables[key].astype(np.float64).reshape(len(mean), 3, -1)[points] for key in ("idBase", "exBase")}
    centred = mean[points] - mean.mean(axis=0)
    return ShapeModel("bfm2009", f"bfm2009/{found}", "100 mm", centred, basis["idBase"], basis["exBase"], 1.0)


def _variables(path: Path) -> dict[str, NDArray[Any]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(str(path), variable_names=_KEYS)
    except (MatReadError, NotImplementedError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a MATLAB file that can be read ({error}); use BFM_model_front.mat") from error
    lacking = [key for key in _KEYS if key not in variables]
    if lacking:
        raise ConfigError(f"{path}: lacks {', '.join(lacking)}; use BFM_model_front.mat of Deep3DFaceRecon")
    return variables
