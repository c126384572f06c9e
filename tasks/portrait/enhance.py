"""Enhancement: faces drawn finer and twice as large, by an installed package that offers it, else by GFPGAN's network.

A package offers an entry point of the group `talkset.enhancers`: a function of a device ('cpu', 'cuda:0') that loads
its weights there and returns an Enhancer. The built-in one is a face restoration network in ONNX form, run by
onnxruntime: GFPGAN v1.4, or any file of that form in its place. It needs the extra `enhance` and a file of weights,
which are large and not free to use everywhere: nothing is fetched here.

The network maps one RGB image, float32 [1, 3, T, T] in -1..1, to another (T = 512 for GFPGAN). Every image is
redrawn by itself: nothing keeps the detail that it invents steady from one frame of a video to the next.

Wang, Li, Zhang, Shan: Towards Real-World Blind Face Restoration with Generative Facial Prior, CVPR 2021.
"""

import os
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage import weights
from storage.errors import ConfigError, WeightsError
from tasks.portrait.paste_back import resized

GROUP = "talkset.enhancers"
WEIGHTS = "gfpgan"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
SILENT = 4  # errors are raised as well; onnxruntime would also write lines of its own to the terminal


class Enhancer(Protocol):
    """Redraws one face at twice its size. Nothing is promised about how steady that is from frame to frame."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[S, S, 3] -> [2 S, 2 S, 3] uint8 RGB."""
        ...


def load_enhancer(device: str) -> Enhancer:
    """The enhancer of an installed package on a device, the first by name of several, else the built-in one.

    Raises:
        ConfigError: the extra `enhance` is not installed, or cannot use the device.
        WeightsError: the file listed as `gfpgan` is missing, damaged, or of another form.
    """
    offered = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if offered:
        return offered[0].load()(device)
    if find_spec("onnxruntime") is None:
        raise ConfigError("no face enhancer is installed: pip install -e '.[enhance]', or go without --enhance")
    return OnnxEnhancer(weights.resolve(WEIGHTS), device)


class OnnxEnhancer:
    """Redraws one face at twice its size; see the module for the networks that it can run."""

    def __init__(self, path: Path, device: str) -> None:
        """Load a network onto a device, 'cpu' or 'cuda:0'.

        Raises:
            ConfigError: onnxruntime cannot use the device.
            WeightsError: the file is damaged, or holds a network of another form.
        """
        self._path = path
        self._session = _session(path, device)
        self._size_px = _size_px(path, self._session.get_inputs())
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[S, S, 3] -> [2 S, 2 S, 3] uint8 RGB, whatever the network's own size is.

        Raises:
            WeightsError: the network fails, or makes something else than an image.
        """
        given = resized(image, self._size_px).astype(np.float32) / 127.5 - 1
        try:
            made = self._session.run(None, {self._input: np.ascontiguousarray(given.transpose(2, 0, 1)[None])})[0]
        except Exception as error:
            raise WeightsError(f"{self._path}: the network cannot be run ({_reason(error)})") from error
        if made.ndim != 4 or made.shape[:2] != (1, 3) or made.shape[2] != made.shape[3]:
            raise WeightsError(f"{self._path}: the network made {list(made.shape)}, expected [1, 3, T, T]")
        if not np.isfinite(made).all():
            raise WeightsError(f"{self._path}: the network made an image of NaN; its weights are damaged")
        levels = np.rint((np.clip(made[0].transpose(1, 2, 0), -1, 1) + 1) * 127.5).astype(np.uint8)
        return resized(levels, 2 * image.shape[0])


def _session(path: Path, device: str) -> Any:
    """An onnxruntime.InferenceSession."""
    # Releases from 1.29 on report to their maker unless this is set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime
    import torch

    kind, _, index = device.partition(":")
    provider = CUDA if kind == "cuda" else CPU
    unusable = f"--enhance on {device}: this onnxruntime cannot use it; install onnxruntime-gpu, or use --device cpu"
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(unusable)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        choice = (provider, {"device_id": index or "0"} if provider == CUDA else {})
        session = onnxruntime.InferenceSession(path, options, [choice])
    except Exception as error:
        raise WeightsError(f"{path}: not a network that onnxruntime can load ({_reason(error)})") from error
    # It falls back to the CPU by itself where CUDA's or cuDNN's libraries are missing.
    if provider not in session.get_providers():
        raise ConfigError(unusable)
    return session


def _size_px(path: Path, inputs: list[Any]) -> int:
    """T of a network with one input float32 [1, 3, T, T]; its first dimension may be left open."""
    match [(one.type, one.shape) for one in inputs]:
        case [("tensor(float)", [1 | str() | None, 3, int(height), int(width)])] if height == width:
            return height
    found = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in inputs)
    raise WeightsError(f"{path}: the network takes {found}; expected one input tensor(float) [1, 3, T, T]")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
