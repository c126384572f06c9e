"""Histograms of the scores, kept and dropped clips stacked, with the thresholds of the dataset as lines."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.snapshot import Snapshot
from storage.tables import Column
from tasks.report.stored import score_columns
from tasks.report.svg import DROPPED, KEPT, LIMIT, MUTED, calm_axes, new_figure, to_svg

NUM_HISTOGRAMS = 12
NUM_BINS = 32
MIN_WHOLE_BINS = 7  # one value of whole numbers would else be one bar as wide as the chart

# Shown in this order where they exist, after those with a threshold.
_PREFERRED = (
    "quality_face_size_px", "quality_valid_share", "sync_offset_frames", "sync_confidence", "quality_sharpness",
    "quality_brightness", "quality_max_abs_yaw_deg", "quality_max_abs_pitch_deg", "quality_motion", "quality_jitter",
    "quality_audio_rms_db", "quality_longest_gap_frames", "face3d_reprojection_px", "quality_contrast",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Histogram:
    """One score over all stored clips.

    Attributes:
        score: column of the clip table.
        doc: what it means, '' when unknown.
        median: over the clips that have it; NaN when none has.
        num_missing: stored clips without it (NaN).
        limits: for example 'min 60'.
        num_failing: stored clips outside the limits, those without the score included.
        svg: the chart, safe HTML.
    """

    score: str
    doc: str
    median: float
    num_missing: int
    limits: str
    num_failing: int
    svg: str


def histograms(snapshot: Snapshot) -> list[Histogram]:
    """At most `NUM_HISTOGRAMS`, those with a threshold first."""
    table = snapshot.clip_table
    stored = table.filter(pa.array(table["row"].to_numpy() >= 0))
    thresholds: dict[str, dict[str, float | None]] = snapshot.body.config["thresholds"]
    meaning = score_columns(snapshot)
    names = [name for name in dict.fromkeys((*thresholds, *_PREFERRED)) if name in table.column_names]
    is_kept = stored["is_kept"].to_numpy()
    return [
        _histogram(name, stored[name].to_numpy(), is_kept, thresholds.get(name, {}), meaning.get(name))
        for name in names[:NUM_HISTOGRAMS]
    ]


def _histogram(
    score: str,
    values: NDArray[np.float64],
    is_kept: NDArray[np.bool_],
    bounds: dict[str, float | None],
    column: Column | None,
) -> Histogram:
    known = np.isfinite(values)
    limits = {name: bound for name, bound in bounds.items() if bound is not None}
    is_inside = (values >= limits.get("min", -np.inf)) & (values <= limits.get("max", np.inf))
    label = f"Histogram of {score}: {int(known.sum())} clips" + "".join(f", {name} {b:g}" for name, b in limits.items())
    return Histogram(
        score=score,
        doc=column.doc if column else "",
        median=float(np.median(values[known])) if known.any() else float("nan"),
        num_missing=int((~known).sum()),
        limits=", ".join(f"{name} {bound:g}" for name, bound in limits.items()),
        num_failing=int((~is_inside).sum()) if limits else 0,
        svg=_chart(values[known], is_kept[known], limits, column, label),
    )


def _chart(
    values: NDArray[np.float64], is_kept: NDArray[np.bool_], limits: dict[str, float], column: Column | None, label: str
) -> str:
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(3.6, 1.9)
    axes = figure.subplots()
    calm_axes(axes)
    is_whole = bool(column and column.dtype.startswith("int"))
    edges = bin_edges(values, limits, is_whole)
    inside = np.clip(values, edges[0], edges[-1])
    kept, dropped = (np.histogram(inside[chosen], edges)[0] for chosen in (is_kept, ~is_kept))
    widths = 0.92 * np.diff(edges)
    axes.bar(edges[:-1], kept, widths, align="edge", color=KEPT)
    axes.bar(edges[:-1], dropped, widths, bottom=kept, align="edge", color=DROPPED)
    axes.margins(y=0.18)
    for name, bound in limits.items():
        is_left = bound < (edges[0] + edges[-1]) / 2
        axes.axvline(bound, color=LIMIT, linewidth=1.3, linestyle=(0, (4, 2)))
        axes.annotate(
            f"{name} {bound:g}", (bound, 1), (4 if is_left else -4, -1), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="left" if is_left else "right", va="top", color=LIMIT, fontsize=8,
        )  # fmt: skip
    axes.set_xlabel(column.unit if column else "", color=MUTED, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=is_whole))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlim(edges[0], edges[-1])
    return to_svg(figure, label)


def bin_edges(values: NDArray[np.float64], limits: dict[str, float], is_whole: bool) -> NDArray[np.float64]:
    """[B + 1] edges over the central 99 % of the values and the thresholds; what lies beyond counts in the end bins.

    Whole numbers get bins centred on them, as long as `NUM_BINS` bins suffice.
    """
    ends = [*np.quantile(values, [0.005, 0.995]), *limits.values()] if len(values) else [0.0, 1.0, *limits.values()]
    low, high = float(min(ends)), float(max(ends))
    if is_whole:
        low, high = np.floor(low), max(np.ceil(high), np.floor(low) + MIN_WHOLE_BINS - 1)
        step = max(1.0, np.ceil((high - low + 1) / NUM_BINS))
        return np.arange(low - 0.5, high + 0.5 + step, step)
    pad = 0.02 * (high - low) or max(0.5, 0.1 * abs(low))
    return np.linspace(low - pad, high + pad, NUM_BINS + 1)
