"""HDTF's official annotation lists: the spans of a video to use, and the box of the face in each.

Three text files per subset (RD, WDA, WRA) in one folder, fields separated by spaces:
`<subset>_annotion_time.txt`  video.mp4 mm:ss-mm:ss mm:ss-mm:ss ...
`<subset>_crop_wh.txt`        video_<clip index>.mp4 min_width width min_height height   (pixels)
`<subset>_resolution.txt`     video.mp4 720    (height of the image that those pixels belong to)
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from storage.catalog import AnnotationRule
from storage.errors import ConfigError
from storage.records import Span


def spans_of(root: Path, rule: AnnotationRule | None, groups: Mapping[str, str]) -> tuple[Span, ...]:
    """Spans of the video that `groups` names ({subset} and {subject}{session}); empty when it is not listed.

    Boxes are given in units of the image's height, so that they fit a download of any resolution.

    Raises:
        ConfigError: a list is missing or a line in it cannot be read (file and line are named).
    """
    if rule is None:
        return ()
    video = f"{groups['subject']}{groups.get('session', '')}.mp4"
    return _lists(root / rule.folder, groups["subset"]).get(video, ())


@lru_cache(maxsize=16)
def _lists(folder: Path, subset: str) -> dict[str, tuple[Span, ...]]:
    """Spans of every listed video of one subset."""
    times = _fields(folder / f"{subset}_annotion_time.txt")
    crops = _fields(folder / f"{subset}_crop_wh.txt")
    heights = _fields(folder / f"{subset}_resolution.txt")
    found: dict[str, tuple[Span, ...]] = {}
    for video, texts in times.items():
        spans = []
        for index, text in enumerate(texts):
            box = crops.get(f"{video.removesuffix('.mp4')}_{index}.mp4")
            try:
                spans.append(_span(text, box, heights.get(video)))
            except (ValueError, IndexError, ZeroDivisionError) as error:
                where = f"{folder}: {subset} lists: {video} clip {index}"
                raise ConfigError(f"{where}: {error}; mend that line") from None
        found[video] = tuple(spans)
    return found


def _span(text: str, box: list[str] | None, height: list[str] | None) -> Span:
    """The span of `mm:ss-mm:ss`, with its box (x, width, y, height in px) where box and image height are listed."""
    start, end = (_seconds(part) for part in text.split("-"))
    if box is None or height is None:
        return Span(start, end)
    image_height = float(height[0])
    x, width, y, tall = (float(value) / image_height for value in box)
    return Span(start, end, (x, y, x + width, y + tall))


def _seconds(clock: str) -> float:
    """'ss', 'mm:ss' or 'hh:mm:ss' in seconds."""
    total = 0.0
    for part in clock.strip().split(":"):
        total = total * 60 + float(part)
    return total


def _fields(file: Path) -> dict[str, list[str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}; `annotations.folder` must hold HDTF's lists") from None
    rows = [line.split() for line in lines if line.strip()]
    return {row[0]: row[1:] for row in rows}
