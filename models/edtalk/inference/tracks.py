"""Tracks of codes from files and from expressions named over time, fitted to the length of the result.

A track is float32 [n, K] on the CPU, one row per frame of 25 a second; one row alone holds for all frames. Tracks of
pictures come from Animator.codes, those of sound from inference.audio_codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from storage.errors import ConfigError
from storage.timelaw import FPS

# What a track does when its video is shorter than the result: the last frame stays; the video runs back and forth;
# the same without the last 20 frames (when there are more), in which recorded expressions fade.
LengthRule = Literal["hold", "mirror", "mirror-drop-tail"]
DROPPED_FRAMES = 20

# Gaussian of sigma 1 at -1, 0, 1, normalised.
SMOOTHING = (0.27406862, 0.45186276, 0.27406862)
OWN = "own"


def read_codes(path: Path, num_codes: int) -> Tensor:
    """Codes from a .npy file: [K], [1, K] or [n, K] numbers; float32 [n, K].

    Raises:
        ConfigError: there is no such file, it is no .npy file without objects, of another shape, or not finite.
    """
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError, MemoryError) as error:
        raise ConfigError(f"{path}: not a .npy file of numbers ({str(error).splitlines()[0]})") from None
    if found.dtype.kind not in "fiu":
        raise ConfigError(f"{path}: not a .npy file of numbers")
    rows = found[None] if found.ndim == 1 else found
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != num_codes:
        raise ConfigError(f"{path}: codes of shape {found.shape}, expected [n, {num_codes}] with n frames")
    with np.errstate(over="ignore"):
        codes = rows.astype(np.float32)
    if not np.isfinite(codes).all():
        raise ConfigError(f"{path}: holds NaN or infinite codes")
    return torch.from_numpy(codes)


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


@dataclass(frozen=True, slots=True)
class Keyframe:
    """At `time_s` the face shows `name` at `intensity`; see `intensified`."""

    time_s: float
    name: str
    intensity: float = 1.0


def parse_keyframes(text: str) -> tuple[Keyframe, ...]:
    """Keyframes of "0:happy, 2.5:sad*1.5, 4:own", by rising time; a bare name holds from the start on.

    Raises:
        ConfigError: a part is not `time:name` or `time:name*intensity`, or two have the same time.
    """
    frames = sorted((_keyframe(part.strip()) for part in text.split(",")), key=lambda frame: frame.time_s)
    times = [frame.time_s for frame in frames]
    if len(set(times)) < len(times):
        raise ConfigError(f"expression {text!r}: two keyframes at the same time")
    return tuple(frames)


def _keyframe(text: str) -> Keyframe:
    time_s, colon, rest = text.rpartition(":")
    name, star, intensity = rest.partition("*")
    try:
        frame = Keyframe(float(time_s) if colon else 0.0, name.strip(), float(intensity) if star else 1.0)
    except ValueError:
        frame = Keyframe(-1, "")
    if not (frame.name and 0 <= frame.time_s < np.inf and np.isfinite(frame.intensity)):
        raise ConfigError(f"expression {text!r}: write NAME, NAME*INTENSITY or SECONDS:NAME*INTENSITY, with commas")
    return frame


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
