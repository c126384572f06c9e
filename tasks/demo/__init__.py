"""Demo: talking faces made from public-domain stills, in MEAD's and HDTF's layouts, with the truth beside them."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from storage.files import replace_durable
from storage.timelaw import FPS
from tasks.demo.animate import Animator
from tasks.demo.motion import perform
from tasks.demo.portrait import Portrait, load_portrait
from tasks.demo.speech import articulation, synthesize
from tasks.demo.trees import Size, Take, takes
from tasks.media.encode import VideoFormat, VideoWriter, write_audio_file

VERSION = 1  # raised whenever the same seed gives other files
AUDIO_RATE_HZ = 48_000
OFFSET_HZ = FPS  # av_offset_frames counts frames of the project's time law
MAX_OFFSET_FRAMES = FPS
_MARGIN_S = 1.0  # speech exists before and after the video, so that a shifted cut is never silent
_MANIFEST = "DEMO.json"


@dataclass(frozen=True, slots=True)
class DemoTruth:
    """A demo on disk. A stem is the path of a video below the root, without suffix.

    Attributes:
        root: The folder of the trees MEAD/, HDTF/ and truth/.
        stems: One stem per video, MEAD first.
        av_offset_frames: The offset put into every take: how many 25-fps frames the audio is late.
    """

    root: Path
    stems: tuple[str, ...]
    av_offset_frames: int

    def video(self, stem: str) -> Path:
        """The mp4 of a take."""
        return self.root / f"{stem}.mp4"

    def take(self, stem: str) -> dict[str, Any]:
        """Truth of one take.

        Per frame: times_s, mouth_opening (inner-lip gap / IOD), blink, head angles, shift, zoom, strength (see Motion).
        Also the take itself, av_offset_frames, and landmarks [68][2] px and iod_px of the still the motion starts from.
        """
        return json.loads((self.root / f"truth/{stem}.json").read_bytes())


def make_demo(
    root: Path,
    seed: int = 0,
    av_offset_frames: int = 0,
    size: Size = "full",
    num_processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DemoTruth:
    """Write the demo below `root`; nothing is done when it is there already (same arguments, every size as listed).

    Files appear whole or not at all, DEMO.json last. The same arguments give the same bytes.

    Args:
        root: The folder to write to, made when absent; files that only an earlier demo listed are removed.
        seed: The seed of speech, motion and blinks.
        av_offset_frames: How many 25-fps frames the audio is late (negative: early), at most 25.
        size: 'full' (20 videos, for people) or 'small' (5 videos, for tests).
        num_processes: Takes are divided among this many spawned processes (a script that asks for more than one needs
            the usual `__main__` guard); the files do not depend on it.
        progress: Called with (videos done, videos in all), first with 0 done.

    Raises:
        ValueError: unknown size, or an offset beyond 25 frames.
    """
    if abs(av_offset_frames) > MAX_OFFSET_FRAMES:
        raise ValueError(f"av_offset_frames={av_offset_frames}: at most {MAX_OFFSET_FRAMES} either way")
    plan = takes(size)
    truth = DemoTruth(root, tuple(take.stem for take in plan), av_offset_frames)
    wanted = {"version": VERSION, "seed": seed, "av_offset_frames": av_offset_frames, "size": size}
    try:
        old = json.loads((root / _MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        old = {}
    if _is_whole(root, old, wanted):
        return truth
    (root / _MANIFEST).unlink(missing_ok=True)
    report = progress or (lambda done, total: None)
    report(0, len(plan))
    for done, _ in enumerate(_results(root, plan, seed, av_offset_frames, num_processes), start=1):
        report(done, len(plan))
    files = {path: (root / path).stat().st_size for take in plan for path in take.paths}
    for path in set(old.get("files", {})) - set(files):
        # A list that was edited cannot reach outside of the root.
        if (root / path).resolve().is_relative_to(root.resolve()):
            (root / path).unlink(missing_ok=True)
    replace_durable(root / _MANIFEST, json.dumps(wanted | {"files": files}, allow_nan=False).encode())
    return truth


def _results(root: Path, plan: list[Take], seed: int, offset: int, num_processes: int) -> Iterator[None]:
    """One item per finished take, in order."""
    if num_processes == 1:
        for take in plan:
            yield _make_take(root, take, seed, offset)
        return
    count = len(plan)
    # spawn: forking a process that already runs threads (a progress bar, a scheduler) can deadlock
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_make_take, [root] * count, plan, [seed] * count, [offset] * count)


def _make_take(root: Path, take: Take, seed: int, offset: int) -> None:
    """Video, separate audio when the layout has it, then the truth."""
    rng = np.random.default_rng([seed, zlib.crc32(take.stem.encode())])
    duration_s = float(take.num_frames / take.fps)
    opening = articulation(rng, duration_s + 2 * _MARGIN_S)
    speech = synthesize(rng, opening, AUDIO_RATE_HZ, take.pitch_hz)
    first = round(_MARGIN_S * AUDIO_RATE_HZ) - offset * AUDIO_RATE_HZ // OFFSET_HZ
    audio = speech[first : first + round(duration_s * AUDIO_RATE_HZ)]
    times_s = np.arange(take.num_frames) / float(take.fps)
    motion = perform(rng, times_s, opening, -_MARGIN_S, take.emotion, take.level)
    for path in take.paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    portrait, animator = _stage(take.portrait, take.width_px, take.height_px)
    rate_hz = None if take.audio else AUDIO_RATE_HZ
    with VideoWriter(root / take.video, VideoFormat(take.width_px, take.height_px, take.fps, rate_hz)) as writer:
        if not take.audio:
            writer.write_audio(audio)
        for index in range(take.num_frames):
            writer.write_yuv(*animator.render(motion, index, take.emotion))
    if take.audio:
        write_audio_file(root / take.audio, audio, AUDIO_RATE_HZ)
    curves = {name: np.round(values, 5).tolist() for name, values in asdict(motion).items()}
    about = asdict(take) | {"fps": str(take.fps), "seed": seed, "av_offset_frames": offset}
    still = {"landmarks": np.round(portrait.landmarks, 2).tolist(), "iod_px": round(portrait.iod_px, 3)}
    replace_durable(root / take.truth, json.dumps(about | curves | still, allow_nan=False).encode())


@cache
def _stage(name: str, width_px: int, height_px: int) -> tuple[Portrait, Animator]:
    """Portrait and its animator; kept, because most takes share one."""
    portrait = load_portrait(name, width_px, height_px)
    return portrait, Animator(portrait, is_bt709=height_px >= 720)


def _is_whole(root: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if any(manifest.get(name) != value for name, value in wanted.items()):
        return False
    sizes: Mapping[str, int] = manifest["files"]
    return all((root / path).is_file() and (root / path).stat().st_size == size for path, size in sizes.items())
