"""Whole pipeline (cut and every extractor) against decoding alone, CPU time of one process.

    python -m benchmarks.pipeline

Sources are made from the real clips (TALKSET_MEDIA): a 1280x720 and a 1920x1080 h264 file with the speaker upscaled
onto a blurred, moving background, the way HDTF and MEAD look, and the 1080x1920 HEVC clip as it is.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Row, finish
from storage.catalog import ClipRule, Dataset, Layout
from storage.hash_cache import HashCache
from storage.objects import ObjectStore
from tasks import features
from tasks.cut import cut_shard
from tasks.extract import extract_shard
from tasks.inventory import take_inventory
from tasks.media.audio import read_audio
from tasks.media.encode import VideoFormat, VideoWriter
from tasks.media.video import header_seconds, iter_slots
from tasks.shard_work import resolve_features

REPEATS = 3
BARS = {"1280x720 h264": 3.3, "1920x1080 h264": 2.4}


def main() -> None:
    """One row per source: the ratio of the whole to decoding, and where the time of the whole goes."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        sources = _make_sources(Path(folder))
        measure(Path(folder), sources["1280x720 h264"])  # loads models, compiles kernels
        finish([_row(name, [measure(Path(folder), path) for _ in range(REPEATS)]) for name, path in sources.items()])


def _row(name: str, runs: list[dict[str, float]]) -> Row:
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    ratio = statistics.median(run["whole"] / run["decode"] for run in runs)
    frames, bar = median["frames"], BARS.get(name)
    parts = ", ".join(f"{key} {1000 * value / frames:.2f}" for key, value in median.items() if key not in TOTALS)
    notes = (
        f"{1000 * median['whole'] / frames:.2f} against {1000 * median['decode'] / frames:.2f} ms per frame; "
        f"{frames / median['whole']:.0f} frames per CPU second; {parts}"
    )
    what = f"whole pipeline / decoding, {name}"
    return Row(what, f"{ratio:.2f}x", f"<= {bar}x" if bar else "", ratio <= bar if bar else None, notes)


TOTALS = ("frames", "decode", "whole")


def measure(folder: Path, path: Path) -> dict[str, float]:
    """CPU seconds of decoding `path` and of each step on it."""
    dataset = Dataset(
        name="bench", root=path.parent, features={name: {} for name in features.discover() if name != "blendshapes"},
        layouts={"one": Layout(pattern=path.name, name="bench", subject="bench", clips=ClipRule())},
    )  # fmt: skip
    store = ObjectStore(folder / "store")
    (source,) = [s for s in take_inventory(dataset, HashCache(folder / "c", header_seconds)).sources if s.is_usable]
    out: dict[str, float] = {}
    out["decode"], frames = _cpu(lambda: _decode(path))
    out["frames"] = float(frames)
    out["cut"], cut = _cpu(lambda: cut_shard("bench", [source], dataset, store))
    params, _ = resolve_features(dataset)
    keys: dict[str, str] = {}
    for name, param in params.items():
        needs = {need: keys[need] for need in features.discover()[name].REQUIRES}
        out[name], result = _cpu(lambda n=name, p=param, k=needs: extract_shard(n, p, cut, k, [0], store))
        keys[name] = result.key
    out["whole"] = sum(value for key, value in out.items() if key not in ("decode", "frames"))
    shutil.rmtree(folder / "store")
    return out


def _cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def _decode(path: Path) -> int:
    """Decodes every frame, uses none; returns their number."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return sum(1 for _ in container.decode(video=0))


def _make_sources(folder: Path) -> dict[str, Path]:
    media = Path(os.environ.get("TALKSET_MEDIA", "../shared/media")) / "sources"
    if not media.is_dir():
        raise SystemExit(f"{media} is absent: set TALKSET_MEDIA to the folder with the real clips")
    out = {}
    for width, height in ((1280, 720), (1920, 1080)):
        path = folder / f"{width}.mp4"
        _compose(media / "head_shoulders_450_25fps.mp4", path, width, height)
        out[f"{width}x{height} h264"] = path
    return out | {
        "1080x1920 HEVC": media / "portrait_1080x1920_30fps_hevc.mp4",
        "450x450 h264": media / "head_shoulders_450_25fps.mp4",
        "256x256 h264": media / "cropped_256_25fps_60s.mp4",
    }


def _compose(source: Path, target: Path, width: int, height: int) -> None:
    """The speaker upscaled to the full height over a blurred copy, with sensor noise; h264 as publishers encode it."""
    audio = read_audio(source)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2.0, (8, height, width)).astype(np.float32)
    with VideoWriter(target, VideoFormat(width, height, Fraction(25), 16000, crf=20, preset="medium")) as writer:
        for frame in iter_slots(source):
            planes = [_canvas(plane, shape) for plane, shape in _planes(frame, width, height)]
            planes[0] = np.clip(planes[0] + noise[frame.slot % 8], 0, 255).astype(np.uint8)
            writer.write_yuv(*planes)
        if audio is not None:
            writer.write_audio(audio.samples)


def _planes(frame: object, width: int, height: int) -> list[tuple[NDArray[np.uint8], tuple[int, int]]]:
    half = (height // 2, width // 2)
    return [(frame.y, (height, width)), (frame.u, half), (frame.v, half)]  # pyright: ignore[reportAttributeAccessIssue]


def _canvas(plane: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = shape
    back = cv2.GaussianBlur(cv2.resize(plane, (width, width)), (0, 0), 9)[(width - height) // 2 :][:height].copy()
    left = (width - height) // 2
    back[:, left : left + height] = cv2.resize(plane, (height, height), interpolation=cv2.INTER_CUBIC)
    return back  # pyright: ignore[reportReturnType]


if __name__ == "__main__":
    main()
