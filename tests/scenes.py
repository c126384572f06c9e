"""Scenes with real faces: heads of the real clips, placed frame by frame, written as video with audio.

    anna = heads(media / HEAD_CLIPS[0], 100)
    frames = scene(100, (anna, steady(60, 20, 200)), (bert, sliding((320, 60), (40, 60), 120)))
    write_scene(folder / "two.mp4", frames, hum(100))

The truth is known: where each head is in each frame, and when each flash and each beep comes.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from storage.catalog import ClipRule, Dataset, Layout
from storage.cut_tables import CLIPS_FILE, FRAMES_FOLDER, SOURCES_FILE, TRACKS_FILE
from storage.frame_store import FrameStore
from storage.keys import sha256_file
from storage.objects import ObjectStore
from storage.records import Source
from storage.tables import read_table, to_numpy
from storage.timelaw import SAMPLE_RATE_HZ
from tasks.cut import cut_shard
from tasks.faces.backend import FaceBackend
from tasks.media.encode import VideoFormat, VideoWriter

HEAD_CLIPS = ("head_shoulders_450_25fps.mp4", "surprise_512_25fps_3s.mp4")  # two persons, frontal
WIDTH, HEIGHT = 320, 256
HEAD_PX = 200  # side of a pasted image; its face is about half as wide
TWO_SECONDS = ClipRule(length_s=2.0, min_tail_s=0.4)

Images = NDArray[np.uint8]  # [n, H, W, 3] RGB
Place = tuple[float, float, float] | None  # left, top, side in px; None: not in the frame
Placing = Callable[[int], Place]


# ---- frames ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def heads(path: Path, count: int = 100, side_px: int = HEAD_PX) -> Images:
    """The first `count` frames of a square clip, scaled to `side_px`; played to and fro when there are fewer."""
    with av.open(str(path)) as container:
        decoded = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        images = [_scaled(rgb, side_px) for _, rgb in zip(range(count), decoded, strict=False)]
    turn = 2 * len(images) - 2
    order = [min(i % turn, turn - i % turn) for i in range(count)]
    found = np.stack([images[i] for i in order])
    found.setflags(write=False)
    return found


def steady(left: float, top: float, side: float = HEAD_PX) -> Placing:
    """Always at one place."""
    return lambda _: (left, top, side)


def during(placing: Placing, first: int, stop: int) -> Placing:
    """As `placing`, but only in frames first to stop - 1."""
    return lambda index: placing(index) if first <= index < stop else None


def sliding(
    start: tuple[float, float], end: tuple[float, float], first: int, stop: int, side: float = HEAD_PX
) -> Placing:
    """At `start` until frame `first`, then evenly to `end`, reached at frame `stop`."""

    def place(index: int) -> Place:
        share = min(max((index - first) / (stop - first), 0.0), 1.0)
        left, top = (a + (b - a) * share for a, b in zip(start, end, strict=True))
        return left, top, side

    return place


def scene(
    num_frames: int, *cast: tuple[Images, Placing], size: tuple[int, int] = (WIDTH, HEIGHT), background: int = 70
) -> list[Images]:
    """`num_frames` RGB frames of `size` (width, height) with the heads of `cast`, later ones in front."""
    return [_drawn(index, cast, size, background) for index in range(num_frames)]


def with_flashes(frames: Sequence[Images], indices: Sequence[int]) -> list[Images]:
    """White images in place of those at `indices`."""
    return [np.full_like(frame, 255) if index in indices else frame for index, frame in enumerate(frames)]


# ---- audio -----------------------------------------------------------------------------------------------------------


def hum(num_frames: int, fps: float = 25.0, seed: int = 0) -> NDArray[np.float32]:
    """[n] 16 kHz: a soft noise as long as the video."""
    rng = np.random.default_rng(seed)
    return (0.05 * rng.standard_normal(round(num_frames / fps * SAMPLE_RATE_HZ))).astype(np.float32)


def beeps(seconds: float, onsets_s: Sequence[float], length_s: float = 0.06) -> NDArray[np.float32]:
    """[n] 16 kHz: silence with 1-kHz beeps that begin at `onsets_s`."""
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    out = np.zeros(len(time_s), np.float32)
    for onset_s in onsets_s:
        is_on = (time_s >= onset_s) & (time_s < onset_s + length_s)
        out[is_on] = 0.8 * np.sin(2 * np.pi * 1000 * (time_s[is_on] - onset_s))
    return out


def beep_onsets_s(samples: NDArray[np.floating]) -> list[float]:
    """Seconds at which a beep begins in 16-kHz `samples`: first sample of each loud stretch, 0.2 s apart at least."""
    loud = np.flatnonzero(np.abs(samples) > 0.3) / SAMPLE_RATE_HZ
    return [float(at) for at, before in zip(loud, [-1.0, *loud], strict=False) if at - before > 0.2]


# ---- files -----------------------------------------------------------------------------------------------------------


def write_scene(
    path: Path,
    frames: Sequence[Images],
    audio: NDArray[np.float32] | None = None,
    fps: Fraction | int = 25,
    audio_start_s: float = 0.0,
    crf: int = 18,
) -> Path:
    """One mp4 of RGB frames and 16-kHz mono `audio` (None: no audio stream)."""
    height, width = frames[0].shape[:2]
    rate_hz = None if audio is None else SAMPLE_RATE_HZ
    form = VideoFormat(width, height, Fraction(fps), rate_hz, crf=crf, audio_start_s=audio_start_s)
    with VideoWriter(path, form) as writer:
        for frame in frames:
            writer.write_frame(frame)
        if audio is not None:
            writer.write_audio(audio)
    return path


def dataset_in(root: Path, clips: ClipRule = TWO_SECONDS, **changes) -> Dataset:
    """A dataset of all videos in `root`: layout 'files' with `clips`, layout 'five' with windows of 5 s."""
    layout = {"pattern": "{subject}.{extension:mp4|mov|mkv}", "name": "{subject}"}
    layouts = {"files": Layout(**layout, clips=clips), "five": Layout(**layout)}
    return Dataset.model_validate(
        {"name": "scenes", "root": root, "layouts": layouts, "features": {"landmarks": {}}, **changes}
    )


def source_at(path: Path, layout: str = "files", **changes) -> Source:
    """The inventory line of a video in the root of its dataset."""
    fields = {"size_bytes": path.stat().st_size, "sha256": sha256_file(path)[0], **changes}
    return Source(path.name, path.name.encode().hex(), layout, path.stem, path.stem, {}, **fields)


def _scaled(rgb: Images, side_px: int) -> Images:
    return np.asarray(cv2.resize(rgb, (side_px, side_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _drawn(index: int, cast: Sequence[tuple[Images, Placing]], size: tuple[int, int], background: int) -> Images:
    width, height = size
    canvas = np.full((height, width, 3), background, np.uint8)
    for images, placing in cast:
        place = placing(index)
        if place is None:
            continue
        left, top, side = place
        scale = side / images.shape[1]
        # Half-pixel centres; warpAffine clips what lies outside the canvas.
        shift = 0.5 * scale - 0.5
        matrix = np.array([[scale, 0, left + shift], [0, scale, top + shift]])
        cv2.warpAffine(images[index % len(images)], matrix, size, canvas, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    return canvas


# ---- what the cut made of them ---------------------------------------------------------------------------------------


class CutObject:
    """A committed cut, read for tests: states, clip rows and tracks by source name; frames as stored."""

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        self.folder = folder
        self.frames = FrameStore(folder / FRAMES_FOLDER)
        self._id = {source.name: source.source_id for source in sources}
        self.source_rows = {row["source_id"]: row for row in read_table(folder / SOURCES_FILE).to_pylist()}
        self.clip_rows = read_table(folder / CLIPS_FILE).to_pylist()
        self._tracks = read_table(folder / TRACKS_FILE)
        self._track_row = {clip: row for row, clip in enumerate(self._tracks["clip"].to_pylist())}

    def state(self, name: str) -> tuple[str, str]:
        """(state, reason) of a source."""
        row = self.source_rows[self._id[name]]
        return row["state"], row["reason"]

    def source(self, name: str) -> dict[str, Any]:
        """Row of SOURCE_COLUMNS."""
        return self.source_rows[self._id[name]]

    def clips(self, name: str) -> list[dict[str, Any]]:
        """Rows of CLIP_COLUMNS of a source, kept or not, in their order."""
        return [row for row in self.clip_rows if row["source_id"] == self._id[name]]

    def stored(self, name: str) -> list[dict[str, Any]]:
        """Of those, the stored ones."""
        return [row for row in self.clips(name) if row["is_stored"]]

    def track(self, clip: str, column: str) -> NDArray[Any]:
        """A column of TRACK_COLUMNS."""
        return to_numpy(self._tracks, column, self._track_row[clip])

    def valid(self, clip: str) -> NDArray[np.bool_]:
        """[N] bool: landmarks are known."""
        return np.isfinite(self.track(clip, "landmarks")).all(axis=(1, 2))

    def source_landmarks(self, row: Mapping[str, Any]) -> NDArray[np.float64]:
        """[N, 68, 2] px in the upright source, from those in the crop and the stored transform."""
        inverse = np.linalg.inv(np.array(row["source_to_crop"]).reshape(3, 3))
        return self.track(row["clip"], "landmarks") @ inverse[:2, :2].T + inverse[:2, 2]


def cut_files(
    store: Path, paths: Sequence[Path], dataset: Dataset, backend: FaceBackend, layouts: Mapping[str, str] | None = None
) -> CutObject:
    """Cuts files of the dataset's root as one shard; `layouts`: name -> layout where it is not 'files'."""
    sources = [source_at(path, (layouts or {}).get(path.stem, "files")) for path in paths]
    objects = ObjectStore(store)
    result = cut_shard("shard", sources, dataset, objects, backend)
    assert not result.failed, result.failed
    return CutObject(objects.path(result.key), sources)
