"""Cost of `talkset animate edtalk`: frames one by one against eight at once, and memory by the length of the audio.

    python -m benchmarks.edtalk_animate

The command itself, on the CPU, with a real photo and real speech (TALKSET_MEDIA). Weights are drawn at random, which
costs the same. Time is measured with networks of the published size; memory with narrow ones of the same 256 px, whose
images would take 2.7 GiB in ten minutes if they were kept.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import Row, finish
from models.edtalk.networks.audio2lip import Audio2Lip
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from storage.timelaw import FPS, SAMPLE_RATE_HZ
from tasks.media.audio import read_audio
from tasks.media.encode import write_audio_file

# Enough that the memory of the first batch, which the system clears page by page, is a small part of it.
NUM_FRAMES, NUM_ROUNDS = 200, 2
MINUTES = (1, 10)
MAX_GROWTH_MIB = 128


def main() -> None:
    """Measures time, then memory."""
    media = Path(os.environ.get("TALKSET_MEDIA", "../shared/media")) / "sources"
    if not media.is_dir():
        sys.exit(f"{media} is absent: set TALKSET_MEDIA to the folder with the real clips")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        torch.save({"gen": EDTalk().state_dict()}, folder / "full.pt")
        torch.save({"gen": EDTalk(Shape(width=1 / 32, latent_dim=64)).state_dict()}, folder / "narrow.pt")
        torch.save({"audio2lip": Audio2Lip().state_dict()}, folder / "Audio2Lip.pt")
        audio = read_audio(media / "head_shoulders_450_25fps.mp4")
        assert audio is not None
        num_samples = max(MINUTES) * 60 * SAMPLE_RATE_HZ
        write_audio_file(folder / "speech.wav", np.resize(audio.samples, num_samples), SAMPLE_RATE_HZ)
        finish([*_times(folder, media / "portrait_photo_840x1024.jpg"), *_memory(folder, media)])


def _times(folder: Path, photo: Path) -> Iterator[Row]:
    """In turn, so that whatever else the machine does meets both."""
    rounds = [[_run(folder, photo, "full", NUM_FRAMES / FPS, batch)[0] for batch in (1, 8)] for _ in range(NUM_ROUNDS)]
    one, eight = (statistics.mean(times) for times in zip(*rounds, strict=True))
    notes = f"{one:.0f} and {eight:.0f} ms on one core, 256 px, {NUM_FRAMES} frames, mean of {NUM_ROUNDS} runs"
    what = "animate, published size, on the CPU: a frame in batches of 8, against one by one"
    yield Row(what, f"{eight / one:.2f}x", "< 1x", eight < one, notes)


def _memory(folder: Path, media: Path) -> Iterator[Row]:
    photo = media / "portrait_photo_cropped.jpg"
    peaks = [_run(folder, photo, "narrow", 60.0 * minutes, 8)[1] for minutes in MINUTES]
    growth = peaks[1] - peaks[0]
    what = f"animate, 256 px: peak memory at {MINUTES[1]} minutes of audio above that at {MINUTES[0]} minute"
    notes = f"{peaks[0]:.0f} and {peaks[1]:.0f} MiB; the audio itself and its spectrogram are kept"
    yield Row(what, f"{growth:+.0f} MiB", f"< {MAX_GROWTH_MIB} MiB", growth < MAX_GROWTH_MIB, notes)


def _run(folder: Path, photo: Path, model: str, seconds: float, batch_size: int) -> tuple[float, float]:
    """(ms per frame, MiB of memory at most) of one call."""
    given = {
        "--audio": folder / "speech.wav", "--out": folder / "out.mp4", "--checkpoint": folder / f"{model}.pt",
        "--mouth-checkpoint": folder / "Audio2Lip.pt", "--seconds": seconds, "--batch-size": batch_size,
        "--device": "cpu",
    }  # fmt: skip
    words = [str(word) for option in given.items() for word in option]
    command = [sys.executable, "-m", "flows", "animate", "edtalk", str(photo), *words, "--largest-face", "--json"]
    peak_mib = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak_mib = max(peak_mib, _peak_mib(process.pid))
            time.sleep(0.2)
        answer = json.loads(process.communicate()[0])
    assert answer["num_frames"] == round(seconds * FPS)
    return answer["ms_per_frame"], peak_mib


def _peak_mib(pid: int) -> float:
    """The most memory that the process had so far; 0 when it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


if __name__ == "__main__":
    main()
