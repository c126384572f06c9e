"""Speech-like audio: syllables with pauses, a moving pitch and moving formants; no recorded voice."""

import numpy as np
from numpy.typing import NDArray

CONTROL_HZ = 200
_MAX_HARMONIC_HZ = 4000.0
_VOWEL_FORMANTS_HZ = np.array(
    [(730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240), (660, 1720, 2410)],
    dtype=np.float64,
)  # a, e, i, o, u, ae after Peterson and Barney (1952), male means
_BANDWIDTHS_HZ = np.array([90.0, 120.0, 170.0])


def articulation(rng: np.random.Generator, duration_s: float) -> NDArray[np.float64]:
    """[ceil(duration_s * CONTROL_HZ)] opening of the mouth, 0 closed .. 1: 3 to 5 syllables a second, short pauses."""
    curve = np.zeros(int(np.ceil(duration_s * CONTROL_HZ)))
    times = np.arange(len(curve)) / CONTROL_HZ
    start, left_in_phrase = 0.12 + 0.2 * rng.random(), int(rng.integers(5, 10))
    while start < duration_s:
        length = 1 / rng.uniform(3.0, 5.0)
        phase = np.clip((times - start) / length, 0, 1)
        curve += rng.uniform(0.45, 1.0) * np.sin(np.pi * phase) ** 2
        start, left_in_phrase = start + length, left_in_phrase - 1
        if not left_in_phrase:
            start, left_in_phrase = start + rng.uniform(0.25, 0.55), int(rng.integers(5, 10))
    return curve


def synthesize(
    rng: np.random.Generator, opening: NDArray[np.float64], rate_hz: int, pitch_hz: float
) -> NDArray[np.float32]:
    """Mono [len(opening) / CONTROL_HZ * rate_hz] float32 audio, peak 0.7, whose loudness follows `opening`.

    Harmonics of a moving fundamental (pitch_hz +- 20 %) under three moving formants, and bursts of noise where the
    mouth starts to open. Quiet room noise in the pauses.
    """
    num_samples = len(opening) * rate_hz // CONTROL_HZ
    control = np.arange(len(opening)) / CONTROL_HZ
    times = np.arange(num_samples) / rate_hz
    fundamental = pitch_hz * 2 ** (0.25 * _wander(rng, control, 0.6) + 0.08 * opening)
    # Formants glide from vowel to vowel, four a second.
    knots = np.arange(0, control[-1] + 0.5, 0.25)
    vowels = _VOWEL_FORMANTS_HZ[rng.integers(0, len(_VOWEL_FORMANTS_HZ), len(knots))]
    formants = np.stack([np.interp(control, knots, vowels[:, i]) for i in range(3)], axis=1)
    voice = _harmonics(fundamental, formants, control, times)
    loudness = np.interp(times, control, opening)
    onset = np.interp(times, control, np.clip(np.gradient(opening, 1 / CONTROL_HZ) / 12, 0, 1) * (opening < 0.35))
    noise = np.diff(rng.standard_normal(num_samples + 1))
    audio = voice * loudness + 0.02 * noise * onset
    audio = 0.7 * audio / np.abs(audio).max() + 2e-4 * noise
    return audio.astype(np.float32)


def _wander(rng: np.random.Generator, times: NDArray[np.float64], rate_hz: float) -> NDArray[np.float64]:
    """Smooth random curve within -1..1: a sum of three slow sines of random phase."""
    rates, phases = rate_hz * rng.uniform(0.5, 1.5, 3), rng.uniform(0, 2 * np.pi, 3)
    return np.sin(2 * np.pi * rates * times[:, None] + phases).mean(axis=1)


def _harmonics(
    fundamental: NDArray[np.float64],
    formants: NDArray[np.float64],
    control: NDArray[np.float64],
    times: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sum of harmonics below 4 kHz, each as loud as the three resonators let it through; free of aliasing."""
    step = 1 / (times[1] - times[0])
    phase = (2 * np.pi / step * np.cumsum(np.interp(times, control, fundamental))).astype(np.float32)
    total = np.zeros(len(times), np.float32)
    for number in range(1, int(_MAX_HARMONIC_HZ / fundamental.min()) + 1):
        frequency = number * fundamental
        gain = (1 / (1 + ((frequency[:, None] - formants) / _BANDWIDTHS_HZ) ** 2)).sum(axis=1) * number**-0.5
        gain *= frequency < _MAX_HARMONIC_HZ
        total += np.sin(number * phase) * np.interp(times, control, gain).astype(np.float32)
    return total.astype(np.float64)
