"""Contact sheet: real frames with their landmarks and face box, spread over subjects, emotions and splits."""

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


@dataclass(frozen=True, slots=True)
class Stroke:
    """One line of the drawing: CSS class and `points` of an SVG polyline."""

    kind: str
    points: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One clip on the sheet.

    Attributes:
        name, split, emotion, reason, detail: of the clip.
        index, num_frames: which frame is shown, of how many.
        size_px: side of the stored frame, the unit of the drawing.
        image: data URI.
        strokes: landmarks; empty where they are missing.
        box: (x, y, width, height) px of the face, None where it is missing.
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


def contact_sheet(snapshot: Snapshot) -> dict[str, list[Picture]]:
    """'kept' and 'dropped' clips (those dropped, but stored); the middle frame of each. Empty without stored frames."""
    table = snapshot.clip_table
    is_kept = table["is_kept"].to_numpy()
    is_dropped_but_stored = (table["row"].to_numpy() >= 0) & ~is_kept
    kept = spread(table.filter(pa.array(is_kept)), NUM_KEPT)
    dropped = spread(table.filter(pa.array(is_dropped_but_stored)), NUM_DROPPED)
    return {"kept": _pictures(snapshot, kept), "dropped": _pictures(snapshot, dropped)}


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


def _pictures(snapshot: Snapshot, rows: Sequence[dict[str, Any]]) -> list[Picture]:
    return [_picture(snapshot, row, ref) for row, ref in refs(snapshot, rows)]


def _picture(snapshot: Snapshot, row: dict[str, Any], ref: ClipRef) -> Picture:
    index = ref.num_frames // 2
    frame = snapshot.frame(ref, index)
    points = _landmarks(snapshot, ref)[index]
    return Picture(
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
        box=_box(snapshot, ref, index),
    )


def data_uri(frame: NDArray[np.uint8]) -> str:
    """RGB frame [S, S, 3] as a JPEG of at most `SHOWN_PX` a side."""
    if frame.shape[0] > SHOWN_PX:
        frame = np.asarray(cv2.resize(frame, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _landmarks(snapshot: Snapshot, ref: ClipRef) -> NDArray[np.float32]:
    if "landmarks" in ref.shard.features:
        return snapshot.feature(ref, "landmarks", ["landmarks"])["landmarks"]
    return snapshot.tracks(ref)["landmarks"]


def _strokes(points: NDArray[np.float32]) -> tuple[Stroke, ...]:
    strokes = []
    for kind, indices, is_closed in _GROUPS:
        line = [*indices, indices[0]] if is_closed else indices
        strokes.append(Stroke(kind, " ".join(f"{x:.1f},{y:.1f}" for x, y in points[list(line)])))
    return tuple(strokes)


def _box(snapshot: Snapshot, ref: ClipRef, index: int) -> tuple[float, float, float, float] | None:
    if "bbox" not in ref.shard.features:
        return None
    x0, y0, x1, y1 = (float(value) for value in snapshot.feature(ref, "bbox", ["bbox"])["bbox"][index])
    return (x0, y0, x1 - x0, y1 - y0) if np.isfinite([x0, y0, x1, y1]).all() else None
