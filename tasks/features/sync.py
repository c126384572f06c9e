"""sync: by how many frames the audio of a clip lags its video, from jaw opening against vowel energy.

For each lag d the jaw opening of frame i is correlated with the audio envelope of frame i + d. The envelope is the
energy in 1 to 2.5 kHz, where the second formant of open vowels lies: the whole band follows the jaw far less (unvoiced
and closed phones are loud too), and the jaw is steadier than the inner-lip gap, which landmarks resolve to a pixel or
two. Chosen on 30 overlapping five-second windows of two real clips: all came within a frame of their whole clip's peak,
against 23 to 67 % with the inner-lip gap, depending on band and trend.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from storage.tables import Column
from storage.timelaw import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from tasks.clip import Clip
from tasks.faces.head_pose import eye_distance_px

VERSION = 2
REQUIRES: tuple[str, ...] = ()
LIBRARIES = ("numpy",)
CODE_FILES = ("faces/head_pose.py", "faces/landmark_maps.py")

MAX_LAG_FRAMES = 15
BAND_HZ = (1000.0, 2500.0)
ENVELOPE_WINDOW = 2 * SAMPLES_PER_FRAME
# Power to the 1/4, the square root of amplitude: near loudness, and unlike a logarithm finite and calm in pauses.
COMPRESSION = 0.25
# Envelopes flatter than this (full scale is of order 1) are silence, whose rounding noise must not be correlated.
MIN_VARIATION = 1e-6

LOWER_JAW = [7, 8, 9, 65, 66, 67]
UPPER_FACE = [27, 28, 29, 30, 36, 39, 42, 45]

COLUMNS = (
    Column(
        "offset_frames",
        "int16",
        unit="frames",
        doc="lag of the peak of sync_curve; positive = audio later than video; 0 where confidence is NaN",
    ),
    Column("confidence", "float32", doc="peak less the median of |sync_curve|; NaN where no offset can be measured"),
    Column("correlation", "float32", doc="height of the peak of sync_curve; NaN where no offset can be measured"),
    Column(
        "sync_curve",
        "float32",
        (2 * MAX_LAG_FRAMES + 1,),
        doc="correlation of jaw opening with vowel energy at lags -15..15 frames; NaN where too few frames overlap",
    ),
)


class Params(BaseModel):
    """Slow changes removed before correlating, and frames that must overlap for a lag to count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detrend_frames: int = Field(default=15, ge=3)
    min_overlap_frames: int = Field(default=25, ge=3)


def extract(clip: Clip, params: Params, shared: Mapping[str, NDArray] | None = None) -> dict[str, NDArray | np.generic]:
    """`offset_frames`, `confidence`, `correlation`, and `sync_curve` [31].

    Positive offsets mean audio later than video: the speech seen in frame i lies in the audio of frame i + offset. Jaws
    open a frame or two before their vowels, so that well-synchronised speech measures 0 to 2. NaN confidence: no or
    silent audio, a motionless mouth, or a clip shorter than `min_overlap_frames`.
    """
    mouth = _without_trend(jaw_opening(clip.landmarks), params.detrend_frames)
    envelope = _without_trend(vowel_envelope(clip.audio), params.detrend_frames)
    curve = lagged_correlation(mouth, envelope, MAX_LAG_FRAMES, params.min_overlap_frames)
    best, confidence, correlation = MAX_LAG_FRAMES, np.nan, np.nan
    if np.isfinite(curve).any():
        best = int(np.nanargmax(curve))
        correlation = float(curve[best])
        confidence = correlation - float(np.nanmedian(np.abs(curve)))
    return {
        "offset_frames": np.int16(best - MAX_LAG_FRAMES),
        "confidence": np.float32(confidence),
        "correlation": np.float32(correlation),
        "sync_curve": curve.astype(np.float32),
    }


def jaw_opening(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """[N] mean distance of chin and lower inner lip from the upper face, in distances between the outer eye corners.

    Args:
        landmarks: [N, 68, 2] px; NaN rows give NaN.
    """
    points = landmarks.astype(np.float64)
    centre = points[:, UPPER_FACE].mean(axis=1, keepdims=True)
    drop_px = np.linalg.norm(points[:, LOWER_JAW] - centre, axis=2).mean(axis=1)
    return drop_px / max(eye_distance_px(points), 1e-6)


def vowel_envelope(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """[N] compressed energy of 1 to 2.5 kHz in 80 ms around the instant of each frame, of samples [640 N].

    Frame i is of time i/25 s, the start of its share of the samples: windows around that share's middle would make
    all audio look half a frame early.
    """
    padded = np.pad(samples, ENVELOPE_WINDOW // 2).astype(np.float64)
    starts = range(0, len(samples), SAMPLES_PER_FRAME)
    frames = np.lib.stride_tricks.sliding_window_view(padded, ENVELOPE_WINDOW)[starts]
    spectra = np.fft.rfft(frames * np.hanning(ENVELOPE_WINDOW), axis=1)
    first, last = (round(edge * ENVELOPE_WINDOW / SAMPLE_RATE_HZ) for edge in BAND_HZ)
    return np.square(np.abs(spectra[:, first:last])).mean(axis=1) ** COMPRESSION


def lagged_correlation(
    mouth: NDArray[np.float64], envelope: NDArray[np.float64], max_lag: int, min_overlap: int
) -> NDArray[np.float64]:
    """[2 max_lag + 1] Pearson correlation of mouth[i] with envelope[i + d], d = -max_lag..max_lag, over finite pairs.

    NaN for lags with fewer than `min_overlap` pairs and where either side does not vary.
    """
    lags = np.arange(-max_lag, max_lag + 1)
    later = np.arange(len(mouth)) + lags[:, None] + max_lag
    audio = np.pad(envelope, max_lag, constant_values=np.nan)[later]
    is_pair = np.isfinite(mouth) & np.isfinite(audio)
    num_pairs = is_pair.sum(axis=1)
    video, audio = _centred(np.broadcast_to(mouth, is_pair.shape), is_pair), _centred(audio, is_pair)
    spread = np.sqrt(np.square(video).sum(axis=1) * np.square(audio).sum(axis=1))
    is_measurable = (num_pairs >= min_overlap) & (spread > MIN_VARIATION * np.maximum(num_pairs, 1))
    return np.divide((video * audio).sum(axis=1), spread, out=np.full(len(lags), np.nan), where=is_measurable)


def _centred(values: NDArray[np.float64], is_used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`values` [L, N] less the mean of each row's used entries; 0 where unused."""
    used = np.where(is_used, values, 0.0)
    means = used.sum(axis=1, keepdims=True) / np.maximum(is_used.sum(axis=1, keepdims=True), 1)
    return np.where(is_used, used - means, 0.0)


def _without_trend(curve: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """`curve` [N] less its moving average over the known ones of `width` frames; NaN stays NaN."""
    is_known = np.isfinite(curve)
    behind = width // 2
    # [2, N]: the known values and how many there are, summed over each window.
    both = np.pad(np.stack([np.where(is_known, curve, 0.0), is_known]), ((0, 0), (behind, width - 1 - behind)))
    sums, counts = np.lib.stride_tricks.sliding_window_view(both, width, axis=1).sum(axis=2)
    return curve - sums / np.maximum(counts, 1)
