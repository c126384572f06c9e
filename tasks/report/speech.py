"""Speech and mouth: the mel of a clip, and below it jaw opening and vowel energy on the same time axis."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.snapshot import ClipRef, Snapshot
from storage.timelaw import FPS, MEL_COLUMNS_PER_S, num_samples
from tasks.features.sync import jaw_opening, vowel_envelope
from tasks.report.contact_sheet import refs, spread
from tasks.report.svg import AUDIO, INK, KEPT, LINE, MUTED, calm_axes, new_figure, to_svg

NUM_CLIPS = 4
SHOWN_FRAMES = 100
MIN_FRAMES = 50  # shorter clips show too little; taken only where there is no other


@dataclass(frozen=True, slots=True)
class SpeechChart:
    """One clip.

    Attributes:
        name: The name of the clip.
        reason: The reason why it is dropped, '' for a kept one.
        offset_frames, confidence: The result of `sync`; NaN where it could not be measured, None without that feature.
        svg: The chart, safe HTML.
    """

    name: str
    reason: str
    offset_frames: float | None
    confidence: float | None
    svg: str


def speech_charts(snapshot: Snapshot) -> list[SpeechChart]:
    """The stored clip whose audio is farthest off, then others; none where frames, mel or landmarks are not stored."""
    table = snapshot.clip_table
    fit = table.filter(pa.array((table["row"].to_numpy() >= 0) & table["has_audio"].to_numpy()))
    if not fit.num_rows:
        return []
    fit = _where_any(fit, fit["num_frames"].to_numpy() >= MIN_FRAMES)
    if "sync_confidence" in fit.column_names:
        fit = _where_any(fit, np.isfinite(fit["sync_confidence"].to_numpy()))  # silence shows nothing
    worst = []
    if "sync_offset_frames" in fit.column_names:
        is_measured = np.isfinite(fit["sync_confidence"].to_numpy())
        off = np.where(is_measured, np.abs(fit["sync_offset_frames"].to_numpy()), -1)
        worst = fit.slice(int(np.argmax(off)), 1).to_pylist()
    rows = {row["clip"]: row for row in [*worst, *spread(fit.filter(fit["is_kept"]), NUM_CLIPS)]}
    found = refs(snapshot, list(rows.values()))
    chosen = [(row, ref) for row, ref in found if {"mel", "landmarks"} <= set(ref.shard.features)]
    return [_speech_chart(snapshot, row, ref) for row, ref in chosen[:NUM_CLIPS]]


def _where_any(table: pa.Table, is_chosen: NDArray[np.bool_]) -> pa.Table:
    """The chosen rows; all of them where none is."""
    return table.filter(pa.array(is_chosen)) if is_chosen.any() else table


def _speech_chart(snapshot: Snapshot, row: dict[str, Any], ref: ClipRef) -> SpeechChart:
    num_shown = min(ref.num_frames, SHOWN_FRAMES)
    mel = snapshot.feature(ref, "mel", ["mel"])["mel"][: num_shown * MEL_COLUMNS_PER_S // FPS]
    landmarks = snapshot.feature(ref, "landmarks", ["landmarks"])["landmarks"][:num_shown]
    vowels = vowel_envelope(snapshot.audio(ref)[: num_samples(num_shown)])
    label = f"Mel, jaw opening and vowel energy of {ref.name}"
    svg = _chart(mel, _standard(jaw_opening(landmarks)), _standard(vowels), label)
    return SpeechChart(ref.name, row["reason"], row.get("sync_offset_frames"), row.get("sync_confidence"), svg)


def _standard(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """`curve` [N] with mean 0 and deviation 1 over its known frames; a flat one is 0."""
    known = curve[np.isfinite(curve)]
    spread_of = float(known.std()) if len(known) else 0.0
    return (curve - known.mean()) / spread_of if spread_of > 1e-9 else np.where(np.isfinite(curve), 0.0, np.nan)


def _chart(mel: NDArray[np.float32], jaw: NDArray[np.float64], vowels: NDArray[np.float64], label: str) -> str:
    figure = new_figure(6.2, 2.7)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.25, 1))
    for axes in (top, bottom):
        calm_axes(axes)
    end_s = len(jaw) / FPS
    top.imshow(
        mel.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-4,
        vmax=4,
        interpolation="none",
        extent=(0, end_s, 0, 80),
    )
    top.set_ylabel("mel band", color=MUTED, fontsize=8)
    top.set_yticks([0, 40, 80])
    times_s = (np.arange(len(jaw)) + 0.5) / FPS
    bottom.plot(times_s, vowels, color=AUDIO, linewidth=1.3, label="vowel energy (audio)")
    bottom.plot(times_s, jaw, color=KEPT, linewidth=1.6, label="jaw opening (video)")
    bottom.set_yticks([])
    bottom.set_xlim(0, end_s)
    bottom.set_xlabel("seconds", color=MUTED, fontsize=8)
    bottom.grid(axis="x", color=LINE, linewidth=0.5)
    bottom.legend(
        loc="lower left", bbox_to_anchor=(0, 0.98), ncols=2, frameon=False, fontsize=8, labelcolor=INK, borderpad=0
    )
    return to_svg(figure, label)
