"""Fundamental frequency by normalised autocorrelation.

Source: Boersma, Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound, IFA Proceedings 17, 1993 (the method behind Praat's `To Pitch (ac)`), with its default costs.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from storage.timelaw import SAMPLE_RATE_HZ
from tasks.dsp.spectrum import hann

NUM_CANDIDATES = 5
UPSAMPLING = 2
SILENCE_THRESHOLD = 0.03
# Peak level that "the loudest sound of the clip" never goes below, so that the noise floor of a silent clip is silence.
MIN_LOUDEST_PEAK = 0.01
OCTAVE_COST = 0.01
# Boersma's transition costs hold for 10 ms steps and scale inversely with the step.
OCTAVE_JUMP_COST, VOICING_CHANGE_COST, COST_STEP_S = 0.35, 0.14, 0.01


@dataclass(frozen=True, slots=True)
class PitchRange:
    """Where a voice is looked for: lowest and highest fundamental, and the correlation peak that counts as voiced."""

    low_hz: float = 80.0
    high_hz: float = 750.0
    voicing_threshold: float = 0.6

    @property
    def window(self) -> int:
        """Samples per analysis window: three of the longest periods."""
        return 2 * round(1.5 * SAMPLE_RATE_HZ / self.low_hz)


def fundamental_hz(
    samples: NDArray[np.float32], num_rows: int, hop: int, first_centre: int, voice: PitchRange
) -> NDArray[np.float32]:
    """[num_rows] float32 Hz, 0 where unvoiced; row k describes the sound around sample `first_centre + hop * k`.

    Args:
        samples: [n] 16 kHz; silence is assumed outside.
        num_rows: rows to compute.
        hop: samples between rows.
        first_centre: centre of row 0.
        voice: search range.
    """
    frames = _frames(samples - samples.mean(), num_rows, hop, first_centre, voice.window)
    correlation = _autocorrelation(frames, voice)
    pitches_hz, strengths = _candidates(correlation, voice)
    unvoiced = _unvoiced_strength(frames, samples, voice)
    pitches_hz = np.concatenate([np.zeros((num_rows, 1)), pitches_hz], axis=1)
    path = _best_path(pitches_hz, np.concatenate([unvoiced[:, None], strengths], axis=1), hop)
    return pitches_hz[np.arange(num_rows), path].astype(np.float32)


def _frames(
    samples: NDArray[np.float32], num_rows: int, hop: int, first_centre: int, window: int
) -> NDArray[np.float32]:
    """[num_rows, window] views of the zero-padded signal, each with its centre in the middle."""
    behind = max(0, first_centre + hop * (num_rows - 1) + window - len(samples))
    padded = np.pad(samples, (window // 2, behind))
    views = np.lib.stride_tricks.sliding_window_view(padded, window)
    return views[first_centre : first_centre + hop * (num_rows - 1) + 1 : hop]


def _autocorrelation(frames: NDArray[np.float32], voice: PitchRange) -> NDArray[np.floating]:
    """[rows, lags] at 1 / UPSAMPLING sample steps from lag 0; window tapering divided out, 0 for empty frames."""
    window = hann(voice.window).astype(np.float32)
    raw = _raw_autocorrelation((frames - frames.mean(axis=1, keepdims=True)) * window, voice)
    energy = raw[:, :1]
    normalised = np.divide(raw, energy, out=np.zeros_like(raw), where=energy > 0)
    return normalised / _window_autocorrelation(voice)


@cache
def _window_autocorrelation(voice: PitchRange) -> NDArray[np.floating]:
    raw = _raw_autocorrelation(hann(voice.window).astype(np.float32)[None], voice)
    return raw[0] / raw[0, 0]


def _raw_autocorrelation(frames: NDArray[np.float32], voice: PitchRange) -> NDArray[np.floating]:
    num_lags = int(SAMPLE_RATE_HZ / voice.low_hz) + 3
    size = 1 << (voice.window + num_lags).bit_length()
    spectrum = np.fft.rfft(frames, n=size, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return np.fft.irfft(power, n=UPSAMPLING * size, axis=1)[:, : UPSAMPLING * num_lags]


def _candidates(
    correlation: NDArray[np.floating], voice: PitchRange
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best peaks of each row: pitches [rows, K] Hz and strengths [rows, K], -inf where a row has fewer than K."""
    before, here, after = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    lags = np.arange(1, correlation.shape[1] - 1) / (UPSAMPLING * SAMPLE_RATE_HZ)
    is_peak = (here > before) & (here >= after) & (here > 0) & (lags >= 0.98 / voice.high_hz)
    scores = np.where(is_peak, here - OCTAVE_COST * np.log2(voice.low_hz * lags), -np.inf)
    best = np.argpartition(-scores, NUM_CANDIDATES, axis=1)[:, :NUM_CANDIDATES]
    left, top, right = (np.take_along_axis(part, best, axis=1).astype(np.float64) for part in (before, here, after))
    bend = left - 2 * top + right
    shift = np.clip(np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=bend < 0), -0.5, 0.5)
    peak = np.minimum(top - 0.25 * (left - right) * shift, 1.0)
    pitches_hz = 1 / (lags[best] + shift / (UPSAMPLING * SAMPLE_RATE_HZ))
    is_usable = np.take_along_axis(is_peak, best, axis=1) & (pitches_hz >= voice.low_hz) & (pitches_hz <= voice.high_hz)
    pitches_hz = np.where(is_usable, pitches_hz, voice.low_hz)
    strengths = peak - OCTAVE_COST * np.log2(voice.low_hz / pitches_hz)
    return pitches_hz, np.where(is_usable, strengths, -np.inf)


def _unvoiced_strength(
    frames: NDArray[np.float32], samples: NDArray[np.float32], voice: PitchRange
) -> NDArray[np.float64]:
    """[rows]: the voicing threshold, raised where the frame is quiet against the loudest sound of the clip."""
    third = voice.window // 3
    local_peak = np.abs(frames[:, third : 2 * third]).max(axis=1)
    loudest = max(float(np.abs(samples).max(initial=0.0)), MIN_LOUDEST_PEAK)
    loudness = local_peak / loudest * (1 + voice.voicing_threshold) / SILENCE_THRESHOLD
    return voice.voicing_threshold + np.maximum(0.0, 2.0 - loudness.astype(np.float64))


def _best_path(pitches_hz: NDArray[np.float64], strengths: NDArray[np.float64], hop: int) -> NDArray[np.intp]:
    """[rows] candidate index (0 = unvoiced) of the path of greatest strength less transition costs (Viterbi)."""
    costs = _transition_costs(pitches_hz) * (COST_STEP_S * SAMPLE_RATE_HZ / hop)
    origin = np.zeros(strengths.shape, dtype=np.intp)
    score = strengths[0]
    for row in range(1, len(strengths)):
        reached = score[:, None] - costs[row - 1]
        origin[row] = reached.argmax(axis=0)
        score = reached.max(axis=0) + strengths[row]
    path = np.empty(len(strengths), dtype=np.intp)
    path[-1] = score.argmax()
    for row in range(len(strengths) - 1, 0, -1):
        path[row - 1] = origin[row, path[row]]
    return path


def _transition_costs(pitches_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rows - 1, from, to] for 10 ms steps: octaves jumped between voiced candidates, or a change of voicing."""
    is_voiced = pitches_hz > 0
    octaves = np.log2(np.where(is_voiced, pitches_hz, 1.0))
    jump = OCTAVE_JUMP_COST * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    is_change = is_voiced[:-1, :, None] != is_voiced[1:, None, :]
    is_both_voiced = is_voiced[:-1, :, None] & is_voiced[1:, None, :]
    return np.where(is_both_voiced, jump, np.where(is_change, VOICING_CHANGE_COST, 0.0))
