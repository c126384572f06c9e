"""Fundamental frequency by normalised autocorrelation.

Source: Boersma, Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound, IFA Proceedings 17, 1993 (the method of Praat's `To Pitch (ac)`), with its default costs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.timelaw import SAMPLE_RATE_HZ
from tasks.dsp.spectrum import hann

NUM_CANDIDATES = 5
UPSAMPLING = 2
SILENCE_THRESHOLD = 0.03
# Peak level that the loudest sample of the clip never goes below: the noise floor of a silent clip is silence.
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

    def autocorrelation(self, frames: NDArray[np.float32]) -> NDArray[np.floating]:
        """[rows, lags] of frames [rows, window], at 1 / UPSAMPLING sample steps from lag 0; 0 for empty frames.

        Frames are centred and tapered, and the autocorrelation of the taper is divided out.
        """
        taper = hann(self.window).astype(np.float32)
        raw = self._raw_autocorrelation((frames - frames.mean(axis=1, keepdims=True)) * taper)
        energy = raw[:, :1]
        normalised = np.divide(raw, energy, out=np.zeros_like(raw), where=energy > 0)
        of_taper = self._raw_autocorrelation(taper[None])[0]
        return normalised / (of_taper / of_taper[0])

    def candidates(self, correlation: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Best peaks of each row: pitches [rows, K] Hz and strengths [rows, K], -inf where a row has fewer than K."""
        before, here, after = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
        lags = np.arange(1, correlation.shape[1] - 1) / (UPSAMPLING * SAMPLE_RATE_HZ)
        is_peak = (here > before) & (here >= after) & (here > 0) & (lags >= 0.98 / self.high_hz)
        scores = np.where(is_peak, here - OCTAVE_COST * np.log2(self.low_hz * lags), -np.inf)
        best = np.argpartition(-scores, NUM_CANDIDATES, axis=1)[:, :NUM_CANDIDATES]
        left, top, right = (np.take_along_axis(part, best, axis=1).astype(np.float64) for part in (before, here, after))
        bend = left - 2 * top + right
        shift = np.clip(np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=bend < 0), -0.5, 0.5)
        peak = np.minimum(top - 0.25 * (left - right) * shift, 1.0)
        pitches_hz = 1 / (lags[best] + shift / (UPSAMPLING * SAMPLE_RATE_HZ))
        is_usable = np.take_along_axis(is_peak, best, axis=1)
        is_usable = is_usable & (pitches_hz >= self.low_hz) & (pitches_hz <= self.high_hz)
        pitches_hz = np.where(is_usable, pitches_hz, self.low_hz)
        strengths = peak - OCTAVE_COST * np.log2(self.low_hz / pitches_hz)
        return pitches_hz, np.where(is_usable, strengths, -np.inf)

    def unvoiced_strength(self, frames: NDArray[np.float32], loudest: float) -> NDArray[np.float64]:
        """[rows]: the voicing threshold, raised where the frame is quiet against the clip's peak level `loudest`."""
        third = self.window // 3
        local_peak = np.abs(frames[:, third : 2 * third]).max(axis=1)
        loudness = local_peak / max(loudest, MIN_LOUDEST_PEAK) * (1 + self.voicing_threshold) / SILENCE_THRESHOLD
        return self.voicing_threshold + np.maximum(0.0, 2.0 - loudness.astype(np.float64))

    def _raw_autocorrelation(self, frames: NDArray[np.float32]) -> NDArray[np.floating]:
        num_lags = int(SAMPLE_RATE_HZ / self.low_hz) + 3
        size = 1 << (self.window + num_lags).bit_length()
        spectrum = np.fft.rfft(frames, n=size, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        return np.fft.irfft(power, n=UPSAMPLING * size, axis=1)[:, : UPSAMPLING * num_lags]


def fundamental_hz(
    samples: NDArray[np.float32], num_rows: int, hop: int, first_centre: int, voice: PitchRange
) -> NDArray[np.float32]:
    """[num_rows] float32 Hz, 0 where unvoiced; row k describes the audio around sample `first_centre + hop * k`.

    Args:
        samples: [n] 16 kHz; silence is assumed outside.
        num_rows: rows to compute.
        hop: samples between rows.
        first_centre: centre of row 0.
        voice: search range.
    """
    last_centre = first_centre + hop * (num_rows - 1)
    centred = samples - samples.mean()
    padded = np.pad(centred, (voice.window // 2, max(0, last_centre + voice.window - len(centred))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, voice.window)[first_centre : last_centre + 1 : hop]
    pitches_hz, strengths = voice.candidates(voice.autocorrelation(frames))
    unvoiced = voice.unvoiced_strength(frames, float(np.abs(samples).max(initial=0.0)))
    pitches_hz = np.concatenate([np.zeros((num_rows, 1)), pitches_hz], axis=1)
    path = _best_path(pitches_hz, np.concatenate([unvoiced[:, None], strengths], axis=1), hop)
    return pitches_hz[np.arange(num_rows), path].astype(np.float32)


def _best_path(pitches_hz: NDArray[np.float64], strengths: NDArray[np.float64], hop: int) -> NDArray[np.intp]:
    """[rows] candidate index (0 = unvoiced) of the path of greatest strength less transition costs (Viterbi)."""
    is_voiced = pitches_hz > 0
    octaves = np.log2(np.where(is_voiced, pitches_hz, 1.0))
    jump = OCTAVE_JUMP_COST * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    is_change = is_voiced[:-1, :, None] != is_voiced[1:, None, :]
    is_both_voiced = is_voiced[:-1, :, None] & is_voiced[1:, None, :]
    # [rows - 1, from, to] for 10 ms steps: octaves jumped between voiced candidates, or a change of voicing.
    costs = np.where(is_both_voiced, jump, np.where(is_change, VOICING_CHANGE_COST, 0.0))
    costs *= COST_STEP_S * SAMPLE_RATE_HZ / hop
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
