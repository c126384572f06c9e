"""Motion: what the head, the lids and the mouth of a demo face do over the frames of one take."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.demo.speech import CONTROL_HZ

CLOSED_GAP, SPEECH_GAP = 0.01, 0.21  # inner-lip gap in IOD: lips together, and what a wide syllable adds
_BLINK_CLOSE_S, _BLINK_OPEN_S = 0.10, 0.18

# Shift of a facial part at full strength, in IOD; `jaw` adds to the inner-lip gap.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "angry": {"brows_in": 0.06, "inner_brows_up": -0.06, "corners_up": -0.03, "lids_up": 0.012},
    "contempt": {"left_corner_up": 0.07, "outer_brows_up": 0.02, "corners_up": -0.01},
    "disgusted": {"nose_up": 0.05, "inner_brows_up": -0.03, "corners_up": -0.04, "lids_up": -0.015},
    "fear": {"inner_brows_up": 0.06, "brows_in": 0.03, "lids_up": 0.03, "corners_out": 0.03, "jaw": 0.02},
    "happy": {"corners_up": 0.06, "corners_out": 0.05, "lids_up": -0.012},
    "neutral": {},
    "sad": {"inner_brows_up": 0.05, "outer_brows_up": -0.03, "corners_up": -0.06, "lids_up": -0.02},
    "surprised": {"inner_brows_up": 0.07, "outer_brows_up": 0.07, "lids_up": 0.03, "jaw": 0.06},
}


@dataclass(frozen=True, slots=True)
class Motion:
    """One take of N frames.

    Attributes:
        times_s: [N] when each frame is shown.
        mouth_opening: [N] inner-lip gap at the middle of the mouth / IOD.
        blink: [N] 0 open .. 1 closed.
        yaw_deg, pitch_deg, roll_deg: [N] head angles from the still; positive turns to image right, down, clockwise.
        shift: [N, 2] head translation in IOD, x to the right, y down.
        zoom: [N] head size against the still, 1 = same.
        strength: [N] how much of the expression shows, 0..1.
    """

    times_s: NDArray[np.float64]
    mouth_opening: NDArray[np.float64]
    blink: NDArray[np.float64]
    yaw_deg: NDArray[np.float64]
    pitch_deg: NDArray[np.float64]
    roll_deg: NDArray[np.float64]
    shift: NDArray[np.float64]
    zoom: NDArray[np.float64]
    strength: NDArray[np.float64]

    def amounts(self, index: int, emotion: str) -> dict[str, float]:
        """Amount of each displacement field in frame `index`; names as in `fields.Fields`."""
        strength = float(self.strength[index])
        return {name: amount * strength for name, amount in EXPRESSIONS[emotion].items()} | {
            "shift_x": float(self.shift[index, 0]),
            "shift_y": float(self.shift[index, 1]),
            "roll": float(np.radians(self.roll_deg[index])),
            "yaw": float(np.radians(self.yaw_deg[index])),
            "pitch": float(np.radians(self.pitch_deg[index])),
            "zoom": float(self.zoom[index] - 1),
        }


def perform(
    rng: np.random.Generator,
    times_s: NDArray[np.float64],
    articulation: NDArray[np.float64],
    control_start_s: float,
    emotion: str,
    level: int,
) -> Motion:
    """The motion of a take whose mouth follows `articulation` (0..1 at CONTROL_HZ, first value at control_start_s).

    Raises:
        KeyError: not one of MEAD's eight emotions.
    """
    strength = (level / 3) * (0.75 + 0.25 * np.clip(times_s / 0.8, 0, 1))
    control = control_start_s + np.arange(len(articulation)) / CONTROL_HZ
    jaw = EXPRESSIONS[emotion].get("jaw", 0.0) * strength
    return Motion(
        times_s=times_s,
        mouth_opening=CLOSED_GAP + jaw + SPEECH_GAP * np.interp(times_s, control, articulation),
        blink=_blinks(rng, times_s),
        yaw_deg=_sway(rng, times_s, 4.0),
        pitch_deg=_sway(rng, times_s, 2.5),
        roll_deg=_sway(rng, times_s, 2.0),
        shift=np.stack([_sway(rng, times_s, 0.05), _sway(rng, times_s, 0.035)], axis=1),
        zoom=1 + _sway(rng, times_s, 0.015),
        strength=strength,
    )


def _sway(rng: np.random.Generator, times_s: NDArray[np.float64], amplitude: float) -> NDArray[np.float64]:
    """[N] smooth random curve within -amplitude..amplitude: three sines between 0.1 and 0.8 Hz."""
    rates, phases = rng.uniform((0.1, 0.2, 0.4), (0.2, 0.4, 0.8)), rng.uniform(0, 2 * np.pi, 3)
    weights = np.array([0.5, 0.35, 0.15])
    return amplitude * (np.sin(2 * np.pi * rates * times_s[:, None] + phases) * weights).sum(axis=1)


def _blinks(rng: np.random.Generator, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] a blink every 1.8 to 3.5 s, the first within the first second; lids fall faster than they rise."""
    curve, start = np.zeros(len(times_s)), 0.3 + 0.6 * rng.random()
    while start < times_s[-1]:
        since = times_s - start - _BLINK_CLOSE_S
        reach = np.where(since < 0, _BLINK_CLOSE_S, _BLINK_OPEN_S)
        curve = np.maximum(curve, np.cos(np.pi / 2 * np.clip(since / reach, -1, 1)) ** 2)
        start += rng.uniform(1.8, 3.5)
    return curve
