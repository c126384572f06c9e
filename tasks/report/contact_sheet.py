"""Contact sheet: real frames with their landmarks and face box, spread over subjects, emotions and splits.

The page shows it as one image per clip under a drawing; `sheet_image` is one small image of it, for places that show
images but no pages.
"""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.snapshot import ClipRef, Snapshot
from tasks.faces import landmark_maps as maps

NUM_KEPT = 24
NUM_DROPPED = 8
SHOWN_PX = 256
JPEG_QUALITY = 82

# CSS class, points, closed.
_GROUPS = (
    ("jaw", maps.JAW, False),
    ("brow", maps.BROW_LEFT, False),
    ("brow", maps.BROW_RIGHT, False),
    ("nose", maps.NOSE, False),
    ("eye", maps.EYE_LEFT, True),
    ("eye", maps.EYE_RIGHT, True),
    ("lip", maps.LIPS_OUTER, True),
    ("lip", maps.LIPS_INNER, True),
)
_LABELS = ("split", "subject", "emotion", "reason")

# The sheet as one image.
NUM_TILES = 12
TILES_PER_ROW = 6
TILE_PX = 160
_SHEET_QUALITY = 80
_COLORS_BGR = {
    "jaw": (90, 200, 90),
    "brow": (230, 160, 60),
    "nose": (60, 200, 230),
    "eye": (230, 90, 200),
    "lip": (80, 80, 240),
}
_BOX_BGR = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Stroke:
    """One line of the drawing: CSS class and `points` of an SVG polyline."""

    kind: str
    points: str


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """One clip on the sheet.

    Attributes:
        name, split, emotion, reason, detail: See clips.parquet.
        index, num_frames: The index of the shown frame, and the number of frames.
        size_px: The side of the stored frame, the unit of the drawing.
        image: The frame as a data URI.
        strokes: The landmarks; empty where they are missing.
        box: The face box, (x, y, width, height) px, None where it is missing.
    """

    name: str
    split: str
    emotion: str
    reason: str
    detail: str
    index: int
    num_frames: int
    size_px: int
    image: str
    strokes: tuple[Stroke, ...]
    box: tuple[float, float, float, float] | None


def contact_sheet(snapshot: Snapshot) -> dict[str, list[ShownFrame]]:
    """'kept' and 'dropped' clips (those dropped, but stored); the middle frame of each. Empty without stored frames."""
    table = snapshot.clip_table
    is_kept = table["is_kept"].to_numpy()
    is_dropped_but_stored = (table["row"].to_numpy() >= 0) & ~is_kept
    kept = spread(table.filter(pa.array(is_kept)), NUM_KEPT)
    dropped = spread(table.filter(pa.array(is_dropped_but_stored)), NUM_DROPPED)
    return {
        kind: [_shown_frame(snapshot, row, ref) for row, ref in refs(snapshot, rows)]
        for kind, rows in (("kept", kept), ("dropped", dropped))
    }


def spread(table: pa.Table, count: int) -> list[dict[str, Any]]:
    """At most `count` rows, as different as can be in split, subject, emotion and reason; the same ones every time."""
    labels = list(zip(*(table[column].to_pylist() for column in _LABELS), strict=True))
    waiting: dict[tuple[str, ...], list[int]] = {}
    for index, label in enumerate(labels):
        waiting.setdefault(label, []).append(index)
    used: Counter[tuple[int, str]] = Counter()
    taken: Counter[tuple[str, ...]] = Counter()
    chosen: list[int] = []
    while waiting and len(chosen) < count:
        label = min(waiting, key=lambda label: (taken[label], sum(used[part] for part in enumerate(label)), label))
        chosen.append(waiting[label].pop(0))
        used.update(enumerate(label))
        taken[label] += 1
        if not waiting[label]:
            del waiting[label]
    return table.take(pa.array(sorted(chosen), pa.int64())).to_pylist()


def refs(snapshot: Snapshot, rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], ClipRef]]:
    """Each row with where its clip lies; rows of shards without frames are left out."""
    shards = {shard.shard_id: shard for shard in snapshot.body.shards}
    found = []
    for row in rows:
        shard = shards[row["shard_id"]]
        if "frames/data.mdb" in snapshot.objects.manifest(shard.cut.key).files:
            found.append((row, ClipRef(row["name"], row["clip"], shard, row["row"], row["num_frames"])))
    return found


def _shown_frame(snapshot: Snapshot, row: dict[str, Any], ref: ClipRef) -> ShownFrame:
    index = ref.num_frames // 2
    frame = snapshot.frame(ref, index)
    has_feature = "landmarks" in ref.shard.features
    source = snapshot.feature(ref, "landmarks", ["landmarks"]) if has_feature else snapshot.tracks(ref)
    points = source["landmarks"][index]
    box = None
    if "bbox" in ref.shard.features:
        x0, y0, x1, y1 = (float(value) for value in snapshot.feature(ref, "bbox", ["bbox"])["bbox"][index])
        box = (x0, y0, x1 - x0, y1 - y0) if np.isfinite([x0, y0, x1, y1]).all() else None
    return ShownFrame(
        name=ref.name,
        split=row["split"],
        emotion=row["emotion"],
        reason=row["reason"],
        detail=row["detail"],
        index=index,
        num_frames=ref.num_frames,
        size_px=frame.shape[0],
        image=data_uri(frame),
        strokes=_strokes(points) if np.isfinite(points).all() else (),
        box=box,
    )


def data_uri(frame: NDArray[np.uint8]) -> str:
    """RGB frame [S, S, 3] as a JPEG of at most `SHOWN_PX` a side."""
    if frame.shape[0] > SHOWN_PX:
        frame = np.asarray(cv2.resize(frame, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA), np.uint8)
    return _jpeg_uri(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), JPEG_QUALITY)


def _jpeg_uri(image_bgr: NDArray[Any], quality: int) -> str:
    data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _strokes(points: NDArray[np.float32]) -> tuple[Stroke, ...]:
    strokes = []
    for kind, indices, is_closed in _GROUPS:
        line = [*indices, indices[0]] if is_closed else indices
        strokes.append(Stroke(kind, " ".join(f"{x:.1f},{y:.1f}" for x, y in points[list(line)])))
    return tuple(strokes)


def sheet_image(snapshot: Snapshot) -> str | None:
    """A JPEG as a data URI: frames of kept clips with landmarks and face box drawn; None without stored frames."""
    frames = contact_sheet(snapshot)["kept"]
    # They are in the order of the table, subject after subject: every second or third shows all of them.
    frames = frames[:: -(-len(frames) // NUM_TILES) or 1]
    if not frames:
        return None
    rows = -(-len(frames) // TILES_PER_ROW)
    sheet = np.full((rows * TILE_PX, min(len(frames), TILES_PER_ROW) * TILE_PX, 3), 24, np.uint8)
    for number, frame in enumerate(frames):
        top, left = number // TILES_PER_ROW * TILE_PX, number % TILES_PER_ROW * TILE_PX
        sheet[top : top + TILE_PX, left : left + TILE_PX] = _tile(frame)
    return _jpeg_uri(sheet, _SHEET_QUALITY)


def _tile(shown: ShownFrame) -> NDArray[np.uint8]:
    encoded = np.frombuffer(base64.b64decode(shown.image.split(",", 1)[1]), np.uint8)
    frame = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    image = np.asarray(cv2.resize(frame, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA), np.uint8)
    scale = TILE_PX / shown.size_px
    for stroke in shown.strokes:
        points = np.array([pair.split(",") for pair in stroke.points.split()], np.float64) * scale
        cv2.polylines(image, [np.rint(points).astype(np.int32)], False, _COLORS_BGR[stroke.kind], 1, cv2.LINE_AA)
    if shown.box:
        x, y, width, height = (round(value * scale) for value in shown.box)
        cv2.rectangle(image, (x, y), (x + width, y + height), _BOX_BGR, 1)
    return image
