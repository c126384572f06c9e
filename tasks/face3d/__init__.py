"""3-D face model fitting: shape models, camera, and the Gauss-Newton solver of the face3d extractor."""

from pathlib import Path

from storage.errors import ConfigError
from tasks.face3d.bfm import read_bfm
from tasks.face3d.gaussian_process import NAME, gaussian_process_model
from tasks.face3d.shape_model import ShapeModel


def load_shape_model(name: str, sha256: str | None = None) -> ShapeModel:
    """The embedded model 'gp80x64', or the one in a BFM_model_front.mat file.

    Args:
        name: 'gp80x64' or the path of a .mat file.
        sha256: expected hash of that file; required for a file, because its contents determine every coefficient.

    Raises:
        ConfigError: unknown name; sha256 absent or not that of the file; the file is not a BFM front model.
    """
    if name == NAME:
        return gaussian_process_model()
    if not name.endswith(".mat"):
        raise ConfigError(f"face3d: no shape model {name!r}; use {NAME!r} or the path of a .mat file")
    if sha256 is None:
        raise ConfigError(f"face3d: set shape_model_sha256, the sha256 of {name}, beside shape_model")
    return read_bfm(Path(name), sha256)
