"""Charts as inline SVG that takes its colours from the page, so that they follow light, dark and print."""

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Matplotlib writes these colours; `to_svg` replaces them by the variables of the page.
INK, MUTED, LINE, KEPT, DROPPED, LIMIT, AUDIO = (f"#0{digit}0{digit}0{digit}" for digit in range(1, 8))
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    KEPT: "--kept",
    DROPPED: "--dropped",
    LIMIT: "--limit",
    AUDIO: "--audio",
}


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty figure of that size; 1 inch is 72 units of the SVG."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained", facecolor="none")


def calm_axes(axes: Any) -> None:
    """Only what helps to read: bottom and left line, small muted labels."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=LINE, labelcolor=MUTED, labelsize=8, length=3)


def to_svg(figure: "Figure", label: str) -> str:
    """The figure as an <svg> element (safe HTML) that fills its container; `label` is for screen readers."""
    from markupsafe import Markup, escape
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "DejaVu Sans"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view is not None
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index(">") + 1 :], flags=re.DOTALL)
    body = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", body)  # the same in every chart, and not used
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    head = Markup('<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" viewBox="{}" aria-label="{}">')
    return head.format(view[1], escape(label)) + Markup(body)
