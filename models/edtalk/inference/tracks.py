"""Tracks of codes: fitted to the length of the result, smoothed, intensified, and made of expressions named over time.

A track is float32 [n, K] on the CPU, one row per frame of 25 a second; one row alone holds for all frames. Tracks of
images come from Animator.codes, those of audio from inference.audio_codes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.edtalk.inference.options import OWN, Keyframe, LengthRule
from storage.timelaw import FPS

# Of 'mirror-drop-tail'.
DROPPED_FRAMES = 20

# Gaussian of sigma 1 at -1, 0, 1, normalised.
SMOOTHING = (0.27406862, 0.45186276, 0.27406862)


def frame_order(num_given: int, num_wanted: int, rule: LengthRule) -> NDArray[np.int64]:
    """[num_wanted] which of `num_given` frames to show; a longer video is cut off.

    'mirror' gives 0 1 2 1 0 1 2 ... for three frames: neither end is shown twice in a row.
    """
    order = np.arange(num_wanted)
    if rule == "hold":
        return np.minimum(order, num_given - 1)
    if rule == "mirror-drop-tail" and num_given > DROPPED_FRAMES:
        num_given -= DROPPED_FRAMES
    period = max(1, 2 * num_given - 2)
    return np.minimum(order % period, period - order % period) if num_given > 1 else np.zeros_like(order)


def fit_length(codes: Tensor, num_frames: int, rule: LengthRule) -> Tensor:
    """[n, K] -> [num_frames, K] by the rule; one row stays one."""
    return codes if len(codes) == 1 else codes[torch.from_numpy(frame_order(len(codes), num_frames, rule))]


def smooth(codes: Tensor) -> Tensor:
    """Gaussian over three frames: [n, K] -> [n, K]. The ends are repeated, so constant codes stay as they are."""
    padded = functional.pad(codes.T[None], (1, 1), mode="replicate")
    kernel = torch.tensor(SMOOTHING, dtype=codes.dtype).expand(codes.shape[1], 1, 3)
    return functional.conv1d(padded, kernel, groups=codes.shape[1])[0].T


def intensified(codes: Tensor, own: Tensor, intensity: float) -> Tensor:
    """How far codes [n, K] go from those of the portrait [1, K]: 0 is not at all, 1 as they are, above 1 exaggerates.

    Not from zero: zero is no expression that a face ever had, not even the neutral one.
    """
    return codes if intensity == 1 else own + intensity * (codes - own)


def relative(codes: Tensor, own: Tensor) -> Tensor:
    """What codes [n, K] of a video changed since its first frame, added to those of the portrait [1, K].

    The face keeps the portrait's scale, place and shape; the first frame should show about the portrait's pose. The
    published system drives absolutely, with the codes as they are.
    """
    return codes - codes[:1] + own


def keyframe_codes(
    keyframes: Sequence[Keyframe], codes_of: Callable[[str], Tensor], own: Tensor, num_frames: int
) -> Tensor:
    """Codes that go straight from keyframe to keyframe and stay before the first and after the last.

    Args:
        keyframes: by rising time.
        codes_of: name -> [1, K]; not asked for 'own', which is `own`.
        own: [1, K] of the portrait.
        num_frames: N.

    Returns:
        [N, K], [1, K] for a single keyframe.
    """
    shown = [
        intensified(own if frame.name == OWN else codes_of(frame.name), own, frame.intensity) for frame in keyframes
    ]
    points = torch.cat(shown).numpy()
    if len(points) == 1:
        return torch.from_numpy(points)
    at_s, times_s = np.arange(num_frames) / FPS, [frame.time_s for frame in keyframes]
    columns = [np.interp(at_s, times_s, column) for column in points.T]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
