"""Trees: which takes the demo consists of, laid out as MEAD and HDTF lay out theirs."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from tasks.demo.motion import EXPRESSIONS

Size = Literal["full", "small"]

_SUBJECTS = {"M003": ("hopper", 125.0), "W011": ("astronaut", 190.0)}  # M003: official test set of MEAD; W011: training


@dataclass(frozen=True, slots=True)
class Take:
    """One video to make.

    Attributes:
        stem: The path of the video below the root, without suffix; the truth file has the same below truth/.
        audio: The path of the separate audio file below the root, None when the video carries its audio.
        portrait: The name of the portrait.
        pitch_hz: The pitch of the voice.
        emotion, level: One of MEAD's eight emotions, and its level, 1..3.
        num_frames, fps, width_px, height_px: The format of the video.
    """

    stem: str
    audio: str | None
    portrait: str
    pitch_hz: float
    emotion: str
    level: int
    num_frames: int
    fps: Fraction
    width_px: int
    height_px: int

    @property
    def video(self) -> str:
        """Path of the video below the root."""
        return f"{self.stem}.mp4"

    @property
    def truth(self) -> str:
        """Path of the truth file below the root."""
        return f"truth/{self.stem}.json"

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file of the take, below the root; the truth last."""
        return (self.video, *([self.audio] if self.audio else []), self.truth)


def takes(size: Size) -> list[Take]:
    """The takes of the small or the full demo, MEAD first.

    Raises:
        ValueError: another size.
    """
    if size not in get_args(Size):
        raise ValueError(f"no demo of size {size!r}; use one of {', '.join(get_args(Size))}")
    return [*_mead(size), *_hdtf(size)]


def _mead(size: Size) -> Iterator[Take]:
    """1920x1080 at 30 fps; 2.4 to 3.3 s of every emotion, two takes of one (full); 1.6 s of two emotions (small)."""
    emotions = sorted(EXPRESSIONS) if size == "full" else ["happy", "neutral"]
    for subject, (portrait, pitch_hz) in _SUBJECTS.items():
        for index, emotion in enumerate(emotions):
            level = 1 if emotion == "neutral" else 3 - index % 2
            for number in range(1, 3 if size == "full" and emotion == "happy" else 2):
                num_frames = 48 if size == "small" else 72 + 9 * ((index + number) % 4)
                name = f"{emotion}/level_{level}/{number:03d}"
                yield Take(
                    stem=f"MEAD/{subject}/video/front/{name}",
                    audio=f"MEAD/{subject}/audio/{name}.m4a",
                    portrait=portrait,
                    pitch_hz=pitch_hz,
                    emotion=emotion,
                    level=level,
                    num_frames=num_frames,
                    fps=Fraction(30),
                    width_px=1920,
                    height_px=1080,
                )


def _hdtf(size: Size) -> Iterator[Take]:
    """1280x720 at 25 and 30 fps, 13 to 16 s with a short last clip (full); one of 640x360, 5.4 s (small)."""
    videos = [("WDA_Demo1_000", "astronaut", 25, 340), ("RD_Radio1_000", "hopper", 30, 468)]
    width, height = (1280, 720) if size == "full" else (640, 360)
    for name, portrait, fps, num_frames in videos if size == "full" else [("WDA_Demo1_000", "astronaut", 25, 135)]:
        pitch_hz = next(pitch for still, pitch in _SUBJECTS.values() if still == portrait)
        yield Take(f"HDTF/{name}", None, portrait, pitch_hz, "neutral", 1, num_frames, Fraction(fps), width, height)
