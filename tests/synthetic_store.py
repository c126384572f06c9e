"""A small real store made without a single video: drawn faces that speak, real features, a published snapshot.

    build_store(path)                         3 subjects, 2 clips each: frames, audio, features
    build_store(path, clips_per_subject=3)    the same store grows: snapshot 2, whose parent is snapshot 1
    build_store(path, with_trouble=True)      sources in every state and several dropped clips
    build_store(path, 500, 200, num_frames=(125,), with_media=False, shard_minutes=100)    100,000 clips, no pixels

What is real: object store, LMDB, tables, planner, extractors (mel, landmarks, bbox, quality, sync) and publish. What
is made up: the pixels, the sound and the landmarks, which agree with each other: the mouth opens with the loudness of
the voice; in the one clip that is out of sync on purpose the voice comes `TRUE_LAG_FRAMES` later. Equal arguments give
equal ids.

Without media the store holds labels, accounts and scores only (no frames, tracks, mel or landmarks): made for scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from storage import cut_tables
from storage import snapshot as snapshots
from storage.catalog import ClipRule, Dataset, Layout, SplitRule, Threshold
from storage.emotions import EMOTIONS
from storage.errors import Reason
from storage.frame_store import FrameStoreWriter
from storage.keys import object_key, sha256_hex
from storage.objects import ObjectStore
from storage.records import Shard, Source, StepResult
from storage.snapshot import Snapshot
from storage.tables import write_scalars, write_table
from storage.timelaw import FPS, SAMPLE_RATE_HZ, num_samples

SIZE_PX = 256
EXTRACTORS = ("mel", "landmarks", "bbox", "quality", "sync")
SCORE_EXTRACTORS = ("quality", "sync")  # those of a store without media
TRUE_LAG_FRAMES = 6
THRESHOLDS = {"quality_face_size_px": Threshold(min=60), "quality_valid_share": Threshold(min=0.8)}


@dataclass(frozen=True)
class Take:
    """What one synthetic source contains.

    Attributes:
        source: its line in the inventory.
        num_frames: of its one clip; of each window when there are several.
        num_windows: clips expected of it; the last of several is too short and not stored.
        missing: share of frames without landmarks, at the end of the clip.
        lag_frames: the sound is late by this much.
        source_px_per_crop_px: below 1 the face is small in the source.
        refusal: the cut rejects the source with this.
    """

    source: Source
    num_frames: int
    num_windows: int = 1
    missing: float = 0.0
    lag_frames: int = 0
    source_px_per_crop_px: float = 1.5
    refusal: tuple[Reason, str] | None = None


def build_store(
    path: Path,
    num_subjects: int = 3,
    clips_per_subject: int = 2,
    num_frames: Sequence[int] = (25, 40, 60),
    seed: int = 0,
    with_media: bool = True,
    with_trouble: bool = False,
    thresholds: Mapping[str, Threshold] | None = None,
    shard_minutes: float = 0.1,
    skipped_features: Mapping[str, str] | None = None,
) -> Snapshot:
    """Makes or extends the store at `path` and publishes.

    Args:
        path: folder of the store; what it holds already is kept, as a refresh would.
        num_subjects: `S000`, `S001`, ...; with three or more the last is 'test', the one before it 'val'.
        clips_per_subject: takes of each subject; emotions go round. The second take of every subject lacks landmarks in
            its frames 3 and 4 (NaN rows), all others are complete.
        num_frames: lengths of the clips, taken in turn.
        seed: other looks, voices and contents (so other ids).
        with_media: False leaves out frames, audio and everything computed from them, but the scores.
        with_trouble: adds what a real dataset has; see `troubled_takes` and `hopeless_sources`.
        thresholds: score -> bounds; by default face size and valid share.
        shard_minutes: small, so that there are several shards.
        skipped_features: extractor -> why it did not run.
    """
    from storage.records import ShardResults
    from tasks.inventory import Inventory
    from tasks.plan import make_plan
    from tasks.publish import RefreshResults, publish_snapshot

    dataset = synthetic_dataset(num_subjects, thresholds, shard_minutes)
    takes = regular_takes(num_subjects, clips_per_subject, num_frames, seed)
    hopeless: tuple[Source, ...] = ()
    failed: dict[str, str] = {}
    if with_trouble:
        takes += troubled_takes(seed)
        hopeless, failed = hopeless_sources(takes[0].source, seed)
    snapshots.bind_store(path, dataset.name)
    by_id = {take.source.source_id: take for take in takes}
    sources = sorted((*(take.source for take in takes), *hopeless), key=lambda source: source.path)
    parent = snapshots.latest(path)
    parent_shards = [entry.shard() for entry in parent.body.shards] if parent else []
    plan = make_plan(sources, parent_shards, [shard.shard_id for shard in parent_shards], shard_minutes)
    results = []
    for planned in plan.shards:
        live = tuple(source_id for source_id in planned.source_ids if source_id in by_id)
        shard = Shard.of(live, planned.minutes)
        cut = commit_cut(ObjectStore(path), shard, [by_id[source_id] for source_id in live], seed, with_media)
        members = tuple(by_id[source_id].source.member() for source_id in live)
        features = commit_features(ObjectStore(path), shard, cut, with_media)
        results.append(ShardResults(shard, members, cut, features))
    inventory = Inventory(tuple(sources), num_not_selected=7 * with_trouble, num_ignored=3 * with_trouble)
    found = RefreshResults(inventory, plan, results, failed, skipped_features or {})
    return publish_snapshot(dataset, path, found, code_version="0.0.0")[0]


def synthetic_dataset(
    num_subjects: int = 3, thresholds: Mapping[str, Threshold] | None = None, shard_minutes: float = 0.1
) -> Dataset:
    """The block of datasets.yaml that the store is made by: MEAD-like whole takes and HDTF-like windows."""
    raw = "{subject}/video/{view}/{emotion}/level_{level:\\d+}/{take:\\d+}.mp4"
    whole, windows = ClipRule(length_s="whole", min_tail_s=0.5), ClipRule(length_s=1.0, min_tail_s=0.5)
    has_splits = num_subjects >= 3
    return Dataset(
        name="synthetic",
        root=Path("nowhere"),
        layouts={
            "raw": Layout(pattern=raw, name="{subject}#{emotion}#level_{level}#{take}", clips=whole),
            "talks": Layout(pattern="talks/{subject}.mp4", name="{subject}", clips=windows),
        },
        shard_minutes=shard_minutes,
        features={name: {} for name in EXTRACTORS},
        thresholds=dict(THRESHOLDS if thresholds is None else thresholds),
        split=SplitRule(
            test=[_subject(num_subjects - 1)] if has_splits else [],
            val=[_subject(num_subjects - 2)] if has_splits else [],
            val_share=0.0,
        ),
    )


# ---- the inventory


def regular_takes(num_subjects: int, clips_per_subject: int, num_frames: Sequence[int], seed: int) -> list[Take]:
    """Takes without fault; adding subjects or takes does not change the others."""
    takes = []
    for subject in range(num_subjects):
        for number in range(clips_per_subject):
            emotion = EMOTIONS[(subject + number) % len(EMOTIONS)]
            frames = num_frames[(subject + number) % len(num_frames)]
            takes.append(Take(raw_source(_subject(subject), emotion, number + 1, frames, seed), frames))
    return takes


def troubled_takes(seed: int) -> list[Take]:
    """A talk whose last window is too short, a clip that loses its face, a small face, a late sound, no face."""
    talk = Source(
        "talks/RD_Radio1.mp4", b"talks/RD_Radio1.mp4".hex(), "talks", "RD_Radio1", "RD_Radio1", {}, 1000,
        sha256_hex(f"talk {seed}".encode()), 2.2,
    )  # fmt: skip
    refusal = (Reason.NO_FACE, "no face in 300 frames")
    return [
        Take(talk, 25, num_windows=3),
        Take(raw_source("T001", "happy", 1, 50, seed), 50, missing=0.4),
        Take(raw_source("T001", "sad", 2, 50, seed), 50, source_px_per_crop_px=0.2),
        Take(raw_source("T001", "fear", 3, 75, seed), 75, lag_frames=TRUE_LAG_FRAMES),
        Take(raw_source("T002", "angry", 1, 50, seed), 50, refusal=refusal),
    ]


def hopeless_sources(twin: Source, seed: int) -> tuple[tuple[Source, ...], dict[str, str]]:
    """Sources without a clip: misnamed, empty, unreadable, a copy of `twin`, failed; and source id -> error."""
    name = "<script>alert(1)</script>.mp4"
    misnamed = Source(name, name.encode().hex(), "", name, "", {}, reason=Reason.BAD_NAME, detail="matches no layout")
    empty = replace(raw_source("T003", "sad", 1, 1, seed), reason=Reason.EMPTY, detail="no bytes", size_bytes=0)
    error = "PermissionError: Permission denied; make the file readable"
    unreadable = replace(raw_source("T003", "sad", 2, 1, seed), sha256="", error=error)
    copy = replace(twin, path=f"{twin.path[:-7]}901.mp4", path_hex=f"{twin.path[:-7]}901.mp4".encode().hex())
    crashed = raw_source("T003", "sad", 3, 50, seed)
    failed = {crashed.source_id: "OSError: [Errno 5] Input/output error"}
    return (misnamed, empty, unreadable, copy, crashed), failed


def raw_source(subject: str, emotion: str, number: int, num_frames: int, seed: int) -> Source:
    """A MEAD-like source with made-up hashes."""
    path = f"{subject}/video/front/{emotion}/level_1/{number:03d}.mp4"
    labels = {"view": "front", "emotion": emotion, "level": "1", "take": f"{number:03d}"}
    return Source(
        path, path.encode().hex(), "raw", f"{subject}#{emotion}#level_1#{number:03d}", subject, labels,
        size_bytes=1000 * num_frames, sha256=sha256_hex(f"{path} {seed}".encode()), seconds=num_frames / FPS,
    )  # fmt: skip


def _subject(number: int) -> str:
    return f"S{number:03d}"


# ---- objects


def commit_cut(store: ObjectStore, shard: Shard, takes: Sequence[Take], seed: int, with_media: bool) -> StepResult:
    """Commits what tasks.cut would have committed of `takes` (without frames and tracks when there is no media)."""

    inputs = {"synthetic": [take.source.source_id for take in takes], "seed": seed, "with_media": with_media}
    key = object_key("cut", 0, inputs)
    if not store.exists(key):
        with store.stage("cut", key, inputs) as staging:
            if with_media:
                _write_media(staging.path, [take for take in takes if take.refusal is None])
            rows = [row for take in takes if take.refusal is None for row in clip_rows(take)]
            write_table(staging.path / cut_tables.CLIPS_FILE, rows, cut_tables.CLIP_COLUMNS)
            write_table(
                staging.path / cut_tables.SOURCES_FILE, [_source_row(take) for take in takes], cut_tables.SOURCE_COLUMNS
            )
            staging.commit(timing={take.source.source_id: _cut_seconds(take) for take in takes})
    num_clips = sum(max(1, take.num_windows - 1) for take in takes if take.refusal is None)
    return _result("cut", shard, store, key, num_clips)


def commit_features(store: ObjectStore, shard: Shard, cut: StepResult, with_media: bool) -> dict[str, StepResult]:
    """Extractor -> committed object: really extracted where there is media, else scores drawn at random."""
    from pydantic import BaseModel

    from tasks import features
    from tasks.extract import extract_shard

    groups = [0] * len(cut.source_ids)
    out: dict[str, StepResult] = {}
    for name in EXTRACTORS if with_media else SCORE_EXTRACTORS:
        params: BaseModel = features.discover()[name].Params()
        if with_media:
            out[name] = extract_shard(name, params, cut, {}, groups, store)
        else:
            out[name] = _random_scores(name, shard, cut, store)
    return out


def clip_rows(take: Take) -> list[dict[str, Any]]:
    """Rows of the cut's clips.parquet for one take."""
    return [_clip_row(take, window) for window in range(1, take.num_windows + 1)]


def _clip_row(take: Take, window: int) -> dict[str, Any]:
    source_id, side = take.source.source_id, max(1, round(SIZE_PX * take.source_px_per_crop_px))
    row = {
        "clip": cut_tables.clip_key(source_id, window), "source_id": source_id, "window": window, "span": 0, "has_audio": True,
        "start_s": (window - 1) * take.num_frames / FPS, "size_px": SIZE_PX,
    }  # fmt: skip
    if window == take.num_windows > 1:
        refusal = {"reason": Reason.TOO_SHORT.value, "detail": "5 frames, the shortest clip has 12", "num_frames": 5}
        crop = {"crop_x_px": 0, "crop_y_px": 0, "crop_side_px": 0, "source_to_crop": np.eye(3)}
        return row | refusal | crop | {"is_stored": False}
    crop = {"crop_x_px": 40, "crop_y_px": 20, "crop_side_px": side, "source_to_crop": _source_to_crop(side)}
    return row | crop | {"is_stored": True, "reason": "", "detail": "", "num_frames": take.num_frames}


def _source_to_crop(side: int) -> NDArray[np.float64]:
    scale = SIZE_PX / side
    return np.array([[scale, 0, -40 * scale], [0, scale, -20 * scale], [0, 0, 1]])


def _source_row(take: Take) -> dict[str, Any]:
    reason, detail = take.refusal or ("", "")
    return {
        "source_id": take.source.source_id, "state": "rejected" if take.refusal else "done", "reason": str(reason),
        "detail": detail, "container": "mov,mp4", "codec": "h264", "width_px": 640, "height_px": 480, "rotation_deg": 0,
        "avg_fps": 25.0, "is_variable_rate": False, "has_audio": True, "num_slots": take.num_frames * take.num_windows,
        "num_corrupt": 0,
    }  # fmt: skip


def _write_media(folder: Path, takes: Sequence[Take]) -> None:
    """The LMDB and tracks.parquet of the stored clips."""

    tracks = []
    with FrameStoreWriter(folder / cut_tables.FRAMES_FOLDER, map_size=1 << 24) as writer:
        for take in takes:
            for row in clip_rows(take):
                if row["is_stored"]:
                    jpegs, pcm16, track = _speak(take, row)
                    writer.put_clip(row["clip"], jpegs, pcm16)
                    tracks.append(track)
    write_table(folder / cut_tables.TRACKS_FILE, tracks, cut_tables.TRACK_COLUMNS)


def _speak(take: Take, row: Mapping[str, Any]) -> tuple[list[bytes], NDArray[np.int16], dict[str, Any]]:
    """JPEGs, PCM and the row of tracks.parquet of one clip."""
    from tasks.geometry import face_box, transform_points

    num_frames = row["num_frames"]
    rng = np.random.default_rng(int(sha256_hex(row["clip"].encode())[:8], 16))
    loudness = voice_loudness(rng, num_frames + take.lag_frames)
    landmarks = speaking_face(rng, loudness[take.lag_frames :])
    look = Look.of(take.source.subject)
    jpegs = [encode_jpeg(draw_face(points, look)) for points in landmarks]
    landmarks[_missing_frames(take)] = np.nan
    to_source = np.linalg.inv(row["source_to_crop"])
    track = {
        "clip": row["clip"], "landmarks": landmarks, "source_box": face_box(transform_points(landmarks, to_source)),
        "num_faces": np.isfinite(landmarks[:, 0, 0]).astype(np.int16), "is_corrupt": np.zeros(num_frames, bool),
    }  # fmt: skip
    return jpegs, voice(rng, loudness[:num_frames], look.pitch_hz), track


def _missing_frames(take: Take) -> slice:
    if take.missing:
        return slice(round(take.num_frames * (1 - take.missing)), None)
    return slice(3, 5) if take.source.labels.get("take") == "002" and take.num_frames >= 10 else slice(0)


def _random_scores(name: str, shard: Shard, cut: StepResult, store: ObjectStore) -> StepResult:
    """A feature object with the scalar columns of an extractor only."""
    from storage.snapshot import FEATURES_TABLE
    from storage.tables import read_table
    from tasks import features

    inputs = {"cut": cut.key, "synthetic": True}
    key = object_key(name, 0, inputs)
    if not store.exists(key):
        table = read_table(store.path(cut.key) / cut_tables.CLIPS_FILE, ["clip", "is_stored"]).to_pylist()
        clips = [row["clip"] for row in table if row["is_stored"]]
        columns = [column for column in features.discover()[name].COLUMNS if not column.shape]
        rng = np.random.default_rng(int(key[:8], 16))
        drawn = [_draw(rng, column.name, column.dtype, len(clips)).tolist() for column in columns]
        names = [cut_tables.CLIP_KEY.name, *(column.name for column in columns)]
        rows = [dict(zip(names, values, strict=True)) for values in zip(clips, *drawn, strict=True)]
        with store.stage(name, key, inputs) as staging:
            write_scalars(staging.path / FEATURES_TABLE, rows, (cut_tables.CLIP_KEY, *columns))
            staging.commit(timing={"seconds": round(0.01 * len(clips), 3)})
    return _result(name, shard, store, key, cut.num_clips)


# Score -> (mean, standard deviation) of what is drawn.
_TYPICAL = {
    "face_size_px": (220, 60),
    "valid_share": (0.97, 0.06),
    "brightness": (120, 25),
    "offset_frames": (0.5, 1.2),
}


def _draw(rng: np.random.Generator, name: str, dtype: str, count: int) -> NDArray[Any]:
    centre, spread = _TYPICAL.get(name, (0.5, 0.15))
    values = rng.normal(centre, spread, count)
    if name.endswith("share"):
        values = np.clip(values, 0, 1)
    if dtype == "bool":
        return values > 0.9
    return (np.rint(values) if np.dtype(dtype).kind in "iu" else values).astype(dtype)


def _cut_seconds(take: Take) -> float:
    return round(0.05 * take.num_frames * take.num_windows, 3)


def _result(step: str, shard: Shard, store: ObjectStore, key: str, num_clips: int) -> StepResult:
    ref = store.open(key)
    return StepResult(step, shard.shard_id, shard.source_ids, key, ref.digest, ref.num_bytes, num_clips, 0.0, True)


# ---- a face that speaks


@dataclass(frozen=True)
class Look:
    """What a subject looks and sounds like.

    Attributes:
        skin, hair, wall: RGB.
        pitch_hz: of the voice.
    """

    skin: tuple[int, ...]
    hair: tuple[int, ...]
    wall: tuple[int, ...]
    pitch_hz: float

    @staticmethod
    @cache
    def of(subject: str) -> "Look":
        """The look of a subject, from its name."""
        rng = np.random.default_rng(int(sha256_hex(subject.encode())[:8], 16))
        tone = rng.uniform(0.45, 1.0)
        skin = tuple(int(value * tone) for value in (240, 200, 170))
        hair = tuple(int(value) for value in rng.integers(20, 120, 3))
        wall = tuple(int(value) for value in rng.integers(90, 200, 3))
        return Look(skin, hair, wall, float(rng.uniform(95, 210)))


def voice_loudness(rng: np.random.Generator, num_frames: int) -> NDArray[np.float64]:
    """[N] 0..1: syllables, 3 to 5 a second, of random strength."""
    times_s = np.arange(num_frames) / FPS
    syllables = np.sin(np.pi * rng.uniform(3, 5) * times_s + rng.uniform(0, np.pi)) ** 2
    knots_s = np.arange(0, num_frames / FPS + 1, 0.3)
    return syllables * np.interp(times_s, knots_s, rng.uniform(0.2, 1, len(knots_s)))


def voice(rng: np.random.Generator, loudness: NDArray[np.float64], pitch_hz: float) -> NDArray[np.int16]:
    """[640 N] int16: harmonics of a gliding pitch, as loud as `loudness` says at the instant of each picture."""
    num = num_samples(len(loudness))
    times_s = np.arange(num) / SAMPLE_RATE_HZ
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * times_s))) / SAMPLE_RATE_HZ
    tone = sum(np.sin(order * phase) / order**0.7 for order in range(1, int(3800 / pitch_hz)))
    level = np.interp(times_s, np.arange(len(loudness)) / FPS, loudness)
    samples = 0.12 * level * tone + 0.001 * rng.standard_normal(num)
    return np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)


def speaking_face(rng: np.random.Generator, loudness: NDArray[np.float64]) -> NDArray[np.float32]:
    """[N, 68, 2] float32 px: the neutral face, swaying, its jaw and lower lip up to 18 px lower when it is loud."""
    drop_px = 18 * loudness[:, None]
    points = np.repeat(neutral_face()[None], len(loudness), axis=0)
    points[:, 2:15, 1] += drop_px * np.sin(np.pi * np.arange(2, 15) / 16) ** 2
    points[:, [*range(55, 60), 65, 66, 67], 1] += drop_px
    times_s = np.arange(len(loudness)) / FPS
    sway_x = 4 * np.sin(2 * np.pi * 0.3 * times_s + rng.uniform(0, 6))
    sway = np.stack([sway_x, 2 * np.sin(2 * np.pi * 0.2 * times_s)], axis=1)
    return (points + sway[:, None]).astype(np.float32)


def neutral_face() -> NDArray[np.float64]:
    """[68, 2] px: a frontal face where EDTalk's template has it in a 256-px crop, in iBUG order."""
    turn = np.pi * np.arange(17) / 16
    jaw = np.stack([127.5 - 66.5 * np.cos(turn), 110 + 100 * np.sin(turn)], axis=1)
    arch = np.stack([np.linspace(72, 113, 5), 94 - 8 * np.sin(np.linspace(0.4, np.pi - 0.4, 5))], axis=1)
    bridge = np.stack([np.full(4, 127.5), np.linspace(112, 148, 4)], axis=1)
    nostrils = np.stack([np.linspace(112, 143, 5), 156 + 4 * np.sin(np.linspace(0, np.pi, 5))], axis=1)
    eye = np.array([(80, 113), (88, 107), (99, 107), (108, 114), (99, 118), (88, 118)], float)
    upper = [(101, 180), (110, 174), (120, 171), (127.5, 173), (135, 171), (145, 174), (154, 180)]
    lower = [(145, 186), (135, 189), (127.5, 190), (120, 189), (110, 186)]
    inner = [(106, 180), (118, 179), (127.5, 179.5), (137, 179), (149, 180), (137, 181), (127.5, 181.5), (118, 181)]
    other_eye = _mirrored(eye)[[3, 2, 1, 0, 5, 4]]
    mouth = np.array([*upper, *lower, *inner], float)
    return np.concatenate([jaw, arch, _mirrored(arch)[::-1], bridge, nostrils, eye, other_eye, mouth])


def _mirrored(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([255, 0]) + points * np.array([-1, 1])


def draw_face(points: NDArray[np.float32], look: Look) -> NDArray[np.uint8]:
    """[256, 256, 3] uint8 RGB: wall, hair, skin, brows, eyes, nose and an open mouth at the 68 points."""
    shade = np.linspace(1.1, 0.7, SIZE_PX)[:, None, None]
    image = np.clip(np.array(look.wall) * shade * np.ones((1, SIZE_PX, 1)), 0, 255).astype(np.uint8)
    jaw = points[:17]
    centre = (jaw[0] + jaw[16]) / 2
    _ellipse(image, centre - (0, 18), (80, 88), look.hair)
    _ellipse(image, centre, (66, 78), look.skin)
    _polygon(image, jaw, look.skin)
    dark = tuple(int(value * 0.75) for value in look.skin)
    for brow in (points[17:22], points[22:27]):
        _line(image, brow, look.hair, 4)
    _line(image, np.concatenate([points[27:31], points[31:36]]), dark, 2)
    for eye in (points[36:42], points[42:48]):
        _polygon(image, eye, (245, 245, 245))
        _ellipse(image, eye.mean(axis=0), (5, 5), (40, 30, 20))
    _polygon(image, points[48:60], (170, 70, 75))
    _polygon(image, points[60:68], (60, 15, 20))
    return image


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """RGB image as JPEG."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


# OpenCV draws at 1/16 pixel, so that small motion is visible.
_SHIFT = 4


def _fixed(points: NDArray[Any]) -> NDArray[np.int32]:
    return np.rint(np.asarray(points, np.float64) * (1 << _SHIFT)).astype(np.int32)


def _polygon(image: NDArray[np.uint8], points: NDArray[Any], color: tuple[int, ...]) -> None:
    cv2.fillPoly(image, [_fixed(points)], color, cv2.LINE_AA, _SHIFT)


def _line(image: NDArray[np.uint8], points: NDArray[Any], color: tuple[int, ...], width_px: int) -> None:
    cv2.polylines(image, [_fixed(points)], False, color, width_px, cv2.LINE_AA, _SHIFT)


def _ellipse(image: NDArray[np.uint8], centre: Any, axes: tuple[int, int], color: tuple[int, ...]) -> None:
    (x, y), (a, b) = _fixed(centre), _fixed(np.array(axes))
    cv2.ellipse(image, (int(x), int(y)), (int(a), int(b)), 0, 0, 360, color, -1, cv2.LINE_AA, _SHIFT)
