"""Cut: each source of a shard is decoded once and becomes 25-fps square face crops and 16-kHz audio in one LMDB.

decode -> 25-fps slots -> copy -> track faces -> windows -> speaker -> one square per clip -> JPEG + PCM -> LMDB
"""

import errno
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.catalog import Dataset
from storage.cut_tables import (
    CLIP_COLUMNS,
    CLIPS_FILE,
    FRAMES_FOLDER,
    SOURCE_COLUMNS,
    SOURCES_FILE,
    TRACK_COLUMNS,
    TRACKS_FILE,
    clip_key,
)
from storage.errors import OutOfSpace, Reason, Rejected, StoreCorrupt, error_text
from storage.frame_store import FrameStoreWriter
from storage.keys import sha256_file
from storage.objects import ObjectStore
from storage.records import Source, Span, StepResult
from storage.tables import read_table, write_table
from storage.timelaw import FPS, num_samples
from tasks.faces.backend import FaceBackend, TrackParams, load_backend
from tasks.faces.track import FaceTracker
from tasks.geometry import crop_square, face_box, transform_points
from tasks.media.audio import AudioTrack, cut_audio, read_audio
from tasks.media.container import MediaLimits
from tasks.media.frame_buffer import BLOCK_FRAMES, FrameBuffer
from tasks.media.resample import CropResizer, crop_transform
from tasks.media.video import MediaInfo, SlotFrame, iter_slots, probe
from tasks.step_keys import cut_key
from tasks.windows import Window, WindowAssembler

# Audio that starts late or ends early by less than this is padded with silence instead of shortening the video.
AV_PAD_S = 0.1


def cut_shard(
    shard_id: str, sources: Sequence[Source], dataset: Dataset, store: ObjectStore, backend: FaceBackend | None = None
) -> StepResult:
    """Cuts the sources of one shard and commits one object; sources that cannot be read now are reported as failed.

    Args:
        shard_id: id of the shard, repeated in the result.
        sources: usable sources of the shard, in its order.
        dataset: their dataset; paths of sources are relative to its root.
        store: the object store that the object is committed to.
        backend: face backend; loaded by name when None.

    Returns:
        The committed object. With failed sources it is the object of the others; with none left it has no key.

    Raises:
        OutOfSpace: the disk is full; nothing was committed.
    """
    began = time.monotonic()
    failed: dict[str, str] = {}
    while attempt := [source for source in sources if source.source_id not in failed]:
        key, inputs = cut_key(dataset, [source.member() for source in attempt])
        is_new = not store.exists(key)
        if is_new:
            backend = backend or load_backend(dataset.face.backend)
            broken = _commit_cut(key, inputs, attempt, dataset, store, backend)
            if broken:
                failed |= broken
                continue
        ref = store.open(key)
        num_clips = sum(read_table(store.path(key) / CLIPS_FILE, ["is_stored"])["is_stored"].to_pylist())
        seconds = time.monotonic() - began if is_new else 0.0
        ids = tuple(source.source_id for source in attempt)
        return StepResult("cut", shard_id, ids, ref.key, ref.digest, ref.num_bytes, num_clips, seconds, is_new, failed)
    return StepResult("cut", shard_id, (), "", "", 0, 0, time.monotonic() - began, False, failed)


def _commit_cut(
    key: str, inputs: Mapping[str, Any], sources: Sequence[Source], dataset: Dataset, store: ObjectStore,
    backend: FaceBackend,
) -> dict[str, str]:  # fmt: skip
    """Cuts all sources into one object. Returns source id -> error of those that failed; then nothing is committed.

    The key names every source of the object, so an object that lacks one must not be stored under it.
    """
    failed: dict[str, str] = {}
    rows = _Rows([], [], [])
    seconds: dict[str, float] = {}
    with store.stage("cut", key, inputs) as staging:
        with FrameStoreWriter(staging.path / FRAMES_FOLDER) as writer:
            for source in sources:
                began = time.monotonic()
                try:
                    job = _Job(source, dataset, backend, staging.path, writer)
                    job.run()
                    rows.extend(job.rows)
                except (OutOfSpace, StoreCorrupt):
                    raise
                except Exception as error:
                    failed[source.source_id] = error_text(error)
                seconds[source.source_id] = round(time.monotonic() - began, 3)
        if not failed:
            write_table(staging.path / SOURCES_FILE, rows.sources, SOURCE_COLUMNS, {"step": "cut"})
            write_table(staging.path / CLIPS_FILE, rows.clips, CLIP_COLUMNS, {"step": "cut"})
            write_table(staging.path / TRACKS_FILE, rows.tracks, TRACK_COLUMNS, {"step": "cut"})
            staging.commit(timing=seconds)
    return failed


@dataclass(slots=True)
class _Rows:
    """Rows of the three tables of a shard, or of one of its sources."""

    sources: list[dict[str, Any]]
    clips: list[dict[str, Any]]
    tracks: list[dict[str, Any]]

    def extend(self, rows: "_Rows") -> None:
        """Appends the rows of one source."""
        self.sources.extend(rows.sources)
        self.clips.extend(rows.clips)
        self.tracks.extend(rows.tracks)


@dataclass(slots=True)
class _Stretch:
    """Consecutive slots [first, last) of a source that may become clips; one annotated span, or all of it."""

    first: int
    last: int
    index: int
    box: tuple[float, float, float, float] | None


class _Job:
    """The cut of one source, from its file to rows and stored clips."""

    def __init__(
        self, source: Source, dataset: Dataset, backend: FaceBackend, scratch: Path, writer: FrameStoreWriter
    ) -> None:
        self.source, self.dataset, self.layout = source, dataset, dataset.layouts[source.layout]
        self.backend, self.scratch, self.writer = backend, scratch, writer
        self.rows = _Rows([], [], [])
        root = os.fsencode(dataset.root.expanduser().absolute())
        self.path = Path(os.fsdecode(root + b"/" + bytes.fromhex(source.path_hex)))
        audio = bytes.fromhex(source.audio_path_hex)
        self.audio_path = Path(os.fsdecode(root + b"/" + audio)) if audio else None
        rule = dataset.limits
        self.limits = MediaLimits(
            max_pixels=rule.max_pixels, max_seconds=rule.max_seconds, max_fps=rule.max_fps, max_wall_s=rule.max_wall_s
        )
        self.info: MediaInfo | None = None
        self.audio: AudioTrack | None = None
        self.num_slots = self.num_corrupt = 0
        self.crops: dict[int, tuple[int, int, int]] = {}

    def run(self) -> None:
        """Cuts the source; a Rejected takes back the clips that were stored and becomes its state.

        Raises:
            TimeoutError: reading took too long; that is a property of the machine: failed, not rejected.
            OSError: a file was changed meanwhile; the source is tried again by the next refresh.
        """
        try:
            state = self._cut()
        except Rejected as rejection:
            detail = rejection.detail  # stored without paths: they are not a property of the contents
            for path in filter(None, (self.audio_path, self.path)):
                detail = detail.replace(f"{path}: ", "").replace(str(path), "the file")
            if rejection.reason is Reason.TIMEOUT:
                raise TimeoutError(detail) from rejection
            for row in self.rows.tracks:
                self.writer.drop_clip(row["clip"])
            self.rows = _Rows([], [], [])
            state = ("rejected", rejection.reason.value, detail)
        # The key promises the bytes that the inventory hashed, perhaps hours ago: they must still be those.
        for path, expected in ((self.path, self.source.sha256), (self.audio_path, self.source.audio_sha256)):
            if path is not None and expected and sha256_file(path)[0] != expected:
                raise OSError(errno.ESTALE, "the file was changed while it was read; refresh again")
        info = self.info
        self.rows.sources.append({
            "source_id": self.source.source_id, "state": state[0], "reason": state[1], "detail": state[2],
            "container": info.container if info else "", "codec": info.codec if info else "",
            "width_px": info.width_px if info else 0, "height_px": info.height_px if info else 0,
            "rotation_deg": info.rotation_deg if info else 0, "avg_fps": float(info.avg_fps) if info else 0.0,
            "is_variable_rate": bool(info and info.is_variable_rate), "has_audio": self.audio is not None,
            "num_slots": self.num_slots, "num_corrupt": self.num_corrupt,
        })  # fmt: skip

    def _cut(self) -> tuple[str, str, str]:
        """Reads the audio, then the video, storing clips as they are complete; returns (state, reason, detail).

        Raises:
            Rejected: the source is unusable; stored clips must be taken back by the caller.
        """
        self.info = probe(self.path, self.limits)
        self.audio = self._read_audio()
        stretches = self._stretches(self.info)
        if self.dataset.crop.scope == "source":
            boxes: dict[int, list[NDArray[np.float32]]] = {}
            for stretch, window, _ in self._windows(stretches, keep_frames=False):
                boxes.setdefault(stretch.index, []).append(face_box(window.landmarks))
            self.crops = {
                index: crop_square(np.concatenate(parts), self.dataset.crop)
                for index, parts in boxes.items()
                if np.isfinite(np.concatenate(parts)).any()
            }
        for stretch, window, frames in self._windows(stretches, keep_frames=True):
            self._store(stretch, window, frames)
        # A span in which nothing can be used, past the end of the file say, is an expected clip all the same.
        used = {row["span"] for row in self.rows.clips}
        for stretch in [stretch for stretch in stretches if stretch.index not in used]:
            nothing = "the file has no frame with audio in this span"
            place = (len(self.rows.clips) + 1, 0, 0)
            self._add_clip_row(stretch, place, reason=Reason.TOO_SHORT.value, detail=nothing)
        self._check_totals()
        if self.rows.tracks:
            return "done", "", ""
        reasons = Counter(row["reason"] for row in self.rows.clips)
        # A short rest is no property of the source; where a face was found, its absence elsewhere weighs little.
        weight = {Reason.TOO_SHORT.value: 0, Reason.NO_FACE.value: 1}
        reason = max(reasons, key=lambda name: (weight.get(name, 2), reasons[name]))
        detail = next(row["detail"] for row in self.rows.clips if row["reason"] == reason)
        return "rejected", reason, f"none of {len(self.rows.clips)} expected clips: {detail}"

    def _read_audio(self) -> AudioTrack | None:
        has_file = self.layout.audio.path is not None
        track = None
        if self.audio_path is not None:
            track = read_audio(self.audio_path, self.limits)
        elif not has_file:
            track = read_audio(self.path, self.limits)
        if track is None and self.layout.audio.required:
            self._require_face()
            where = f"no file {self.layout.audio.path}" if has_file else "the video has no audio stream"
            raise Rejected(Reason.NO_AUDIO, f"{where}; set audio.required: false to use it without audio")
        return track

    def _require_face(self) -> None:
        """Rejects a source without a face, which outweighs missing audio; ends at the first face."""
        tracker = FaceTracker(self.backend, self.track_params())
        block: list[NDArray[np.uint8]] = []
        for frame in iter_slots(self.path, self.limits, self.info):
            block.append(frame.y.copy())
            if len(block) == BLOCK_FRAMES:
                if tracker.push(block).num_faces.any():
                    return
                block = []
        if not (block and tracker.push(block).num_faces.any()):
            raise Rejected(Reason.NO_FACE, "no face in any frame (and no audio)")

    def track_params(self) -> TrackParams:
        return TrackParams.model_validate(self.dataset.face.tracking)

    def _stretches(self, info: MediaInfo) -> list[_Stretch]:
        """Slot ranges to use: the spans, cut to where both video and audio exist."""
        first = round(info.video_start_s * FPS)
        last = 2**62
        if self.audio is not None:
            audio_end_s = self.audio.start_s + len(self.audio.samples) / num_samples(FPS)
            if self.audio.start_s - info.video_start_s > AV_PAD_S:
                first = _first_slot(self.audio.start_s)
            last = _last_slot(audio_end_s + AV_PAD_S)
        spans = self.source.spans or (Span(-1e9, 1e9),)
        return [
            _Stretch(max(first, _first_slot(span.start_s)), min(last, _last_slot(span.end_s)), index, span.box)
            for index, span in enumerate(spans)
        ]

    def _windows(
        self, stretches: Sequence[_Stretch], keep_frames: bool
    ) -> Iterator[tuple[_Stretch, Window, "_Frames | None"]]:
        """Decodes the source once; yields each window with its frames, valid until the next one."""
        assert self.info is not None
        self.num_slots = self.num_corrupt = 0
        pending = sorted(stretches, key=lambda stretch: stretch.first)
        current: _Tracked | None = None
        next_index = 1
        for frame in iter_slots(self.path, self.limits, self.info):
            self.num_slots += 1
            self.num_corrupt += frame.is_corrupt
            while pending and frame.slot >= pending[0].last:
                if current is not None:
                    yield from current.finish()
                    next_index, current = current.next_index, None
                pending.pop(0)
            if not pending or frame.slot < pending[0].first:
                continue
            if current is None:
                current = _Tracked(self, pending[0], frame, next_index, keep_frames)
            yield from current.push(frame)
        if current is not None:
            yield from current.finish()

    def _store(self, stretch: _Stretch, window: Window, frames: "_Frames | None") -> None:
        """Stores the frames and audio of one clip, or records the reason why it is none."""
        place = (window.index, window.start, len(window))
        refusal = self._refusal(window)
        if refusal is not None:
            self._add_clip_row(stretch, place, reason=refusal[0].value, detail=refusal[1])
            return
        assert frames is not None
        rule, clip = self.dataset.crop, clip_key(self.source.source_id, window.index)
        boxes = face_box(window.landmarks)
        crop = self.crops.get(stretch.index) or crop_square(boxes, rule)
        transform = crop_transform(crop, rule.size_px)
        jpegs = frames.jpegs(window.start, len(window), crop, rule.size_px, rule.jpeg_quality)
        pcm = np.zeros(num_samples(len(window)), np.int16)
        if self.audio is not None:
            samples = cut_audio(self.audio, stretch.first + window.start, len(window))
            pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
        self.writer.put_clip(clip, jpegs, pcm)
        self.rows.tracks.append({
            "clip": clip, "landmarks": transform_points(window.landmarks, transform).astype(np.float32),
            "source_box": boxes.astype(np.float32), "num_faces": window.num_faces, "is_corrupt": window.is_corrupt,
        })  # fmt: skip
        self._add_clip_row(
            stretch, place, is_stored=True, crop_x_px=crop[0], crop_y_px=crop[1], crop_side_px=crop[2],
            source_to_crop=transform,
        )  # fmt: skip

    def _add_clip_row(self, stretch: _Stretch, place: tuple[int, int, int], **columns: Any) -> None:
        """Adds the row of CLIP_COLUMNS of an expected clip; `place`: (index, start, num_frames) of its window."""
        index, start, num_frames = place
        not_stored = {
            "clip": clip_key(self.source.source_id, index), "source_id": self.source.source_id, "window": index,
            "span": stretch.index, "is_stored": False, "reason": "", "detail": "", "num_frames": num_frames,
            "start_s": (stretch.first + start) / FPS, "has_audio": self.audio is not None,
            "crop_x_px": 0, "crop_y_px": 0, "crop_side_px": 0, "size_px": self.dataset.crop.size_px,
            "source_to_crop": np.eye(3),
        }  # fmt: skip
        self.rows.clips.append(not_stored | columns)

    def _refusal(self, window: Window) -> tuple[Reason, str] | None:
        """The reason why a window is no clip, from the input alone; scores are thresholded when publishing."""
        if window.is_tail:
            return Reason.TOO_SHORT, f"{len(window)} frames, the shortest clip has {self.layout.clips.min_frames}"
        if window.track_id < 0:
            return Reason.NO_FACE, f"no face in {len(window)} frames"
        if window.is_corrupt.any():
            return Reason.CORRUPT_FRAMES, f"{int(window.is_corrupt.sum())} of {len(window)} frames are damaged"
        limit = self.dataset.face.max_faces
        if limit is not None and (window.num_faces > limit).mean() > 0.5:
            return Reason.MULTI_FACE, f"{int(window.num_faces.max())} faces; face.max_faces is {limit}"
        return None

    def _check_totals(self) -> None:
        """Rejects the source for its totals, which are known only at its end."""
        assert self.info is not None
        share = self.num_corrupt / max(1, self.num_slots)
        if share > self.dataset.limits.max_corrupt_share:
            raise Rejected(Reason.CORRUPT_FRAMES, f"{self.num_corrupt} of {self.num_slots} frames are damaged")
        if self.audio is None or self.source.spans:
            return
        video_end_s = self.info.video_start_s + self.num_slots / FPS
        audio_end_s = self.audio.start_s + len(self.audio.samples) / num_samples(FPS)
        gaps = (abs(self.audio.start_s - self.info.video_start_s), abs(audio_end_s - video_end_s))
        limit = self.layout.audio.max_gap_s
        if max(gaps) > limit:
            raise Rejected(
                Reason.AV_LENGTH_MISMATCH,
                f"video and audio differ by {gaps[0]:.2f} s at the start, {gaps[1]:.2f} s at the end (limit {limit})",
            )


class _Tracked:
    """One stretch while it is decoded: copies frames, tracks faces block by block, assembles windows."""

    def __init__(self, job: _Job, stretch: _Stretch, first: SlotFrame, next_index: int, keep_frames: bool) -> None:
        stretch.first = first.slot
        height, width = first.y.shape
        region = tuple(value * height for value in stretch.box) if stretch.box else None
        self.stretch, self.keep_frames = stretch, keep_frames
        self.tracker = FaceTracker(job.backend, job.track_params())
        self.assembler = WindowAssembler(job.layout.clips, region, next_index)  # pyright: ignore[reportArgumentType]
        self.frames = _Frames(FrameBuffer(height, width, job.scratch), first)
        self.grays: list[NDArray[np.uint8]] = []
        self.corrupt: list[bool] = []

    @property
    def next_index(self) -> int:
        """Index of the window that would come next."""
        return self.assembler.first_index

    def push(self, frame: SlotFrame) -> Iterator[tuple[_Stretch, Window, "_Frames | None"]]:
        """Takes one frame; yields the windows it completes."""
        self.grays.append(self.frames.append(frame))
        self.corrupt.append(frame.is_corrupt)
        if len(self.grays) == BLOCK_FRAMES:
            yield from self._track()

    def finish(self) -> Iterator[tuple[_Stretch, Window, "_Frames | None"]]:
        """Ends the stretch; yields what is left of it and frees the frames."""
        if self.grays:
            yield from self._track()
        for window in self.assembler.finish():
            yield self.stretch, window, self.frames
        self.frames.buffer.close()

    def _track(self) -> Iterator[tuple[_Stretch, Window, "_Frames | None"]]:
        faces = self.tracker.push(self.grays)
        for window in self.assembler.push(faces, np.array(self.corrupt), self.tracker.num_pending):
            yield self.stretch, window, self.frames
        self.grays, self.corrupt = [], []
        self.frames.buffer.release_before(self.assembler.start if self.keep_frames else len(self.frames.buffer))


class _Frames:
    """Frames of a stretch by number, and how they become JPEGs."""

    def __init__(self, buffer: FrameBuffer, first: SlotFrame) -> None:
        self.buffer, self.color, self.shape = buffer, first.color, first.y.shape

    def append(self, frame: SlotFrame) -> NDArray[np.uint8]:
        """Copies a frame in; returns its luma."""
        if frame.y.shape != self.shape:
            raise Rejected(Reason.UNSUPPORTED_CODEC, f"the frame size changes from {self.shape} to {frame.y.shape}")
        return self.buffer.append(frame.y, frame.u, frame.v).y

    def jpegs(self, start: int, count: int, crop: tuple[int, int, int], size: int, quality: int) -> list[bytes]:
        """Frames [start, start + count) cropped, resized, encoded as 4:4:4 JPEG."""
        resizer = CropResizer(crop, size, self.shape, self.color)
        options = [
            cv2.IMWRITE_JPEG_QUALITY,
            quality,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ]
        out = []
        for index in range(start, start + count):
            planes = self.buffer.planes(index)
            rgb = resizer(planes.y, planes.u, planes.v)
            is_ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
            if not is_ok:
                raise RuntimeError("OpenCV could not encode a JPEG")
            out.append(data.tobytes())
        return out


def _first_slot(time_s: float) -> int:
    """First slot at or after a time; rounded first, for 0.28 s is slot 7 although 0.28 * 25 > 7 in binary."""
    return math.ceil(round(time_s * FPS, 6))


def _last_slot(time_s: float) -> int:
    """First slot that ends after a time, with the same rounding."""
    return math.floor(round(time_s * FPS, 6))
