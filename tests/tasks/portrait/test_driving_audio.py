"""Audio that drives a face: whole frames, the features of extractors, memory, and one line for what cannot drive."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ConfigError, PreflightError
from tasks.features.mel import edtalk_mel
from tasks.features.mel50 import geneface_mel
from tasks.media.encode import write_audio_file
from tasks.portrait.driving_audio import audio_features, long_mel, read_driving_audio, video_audio
from tests.scenes import write_scene


def hum(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


@pytest.mark.parametrize("num_frames", [1, 2, 311, 313, 640, 1501])
def test_the_mel_in_blocks_is_the_mel(num_frames: int) -> None:
    samples = hum(640 * num_frames)
    expected = edtalk_mel(samples)
    assert expected.shape == (1 + 640 * num_frames // 200, 80)
    np.testing.assert_allclose(long_mel(samples), expected, atol=1e-5)


def test_the_mel_of_ten_minutes_needs_little_memory() -> None:
    samples = hum(640 * 15_000)
    long_mel(samples[:6400])
    tracemalloc.start()
    mel = long_mel(samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mel.nbytes + (50 << 20)


def test_features_are_those_of_the_extractors() -> None:
    samples = hum(640 * 12)
    found = audio_features(samples, ("mel50", "mel"))
    assert {name: array.shape for name, array in found.items()} == {
        "mel": (39, 80), "mel50": (24, 80), "f0_hz": (24,), "voiced": (24,), "rms": (24,),
    }  # fmt: skip
    np.testing.assert_allclose(found["mel"], edtalk_mel(samples), atol=1e-5)
    np.testing.assert_array_equal(found["mel50"], geneface_mel(samples))
    assert audio_features(samples, ()) == {}
    with pytest.raises(ConfigError, match="no extractor 'hearing'; there are bbox"):
        audio_features(samples, ("hearing",))


def test_whole_frames_are_used(tmp_path: Path) -> None:
    write_audio_file(tmp_path / "a.wav", hum(640 * 30 + 500), 16_000)
    samples = read_driving_audio(tmp_path / "a.wav")
    assert (samples.shape, samples.dtype) == ((640 * 30,), np.float32)
    np.testing.assert_allclose(samples, hum(640 * 30 + 500)[: 640 * 30], atol=1e-4)


def test_another_rate_is_resampled(tmp_path: Path) -> None:
    seconds = np.arange(96_000) / 48_000
    write_audio_file(tmp_path / "a.wav", (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32), 48_000)
    samples = read_driving_audio(tmp_path / "a.wav")
    assert len(samples) == 640 * 50
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    assert np.abs(samples - expected)[500:-500].max() < 0.01


def test_the_audio_of_a_video_begins_with_its_first_frame(tmp_path: Path) -> None:
    frame, audio = np.zeros((32, 32, 3), np.uint8), hum(16_000)
    late = write_scene(tmp_path / "late.mp4", [frame] * 30, audio, audio_start_s=0.2)
    found = video_audio(late, 40)
    assert found is not None
    assert found.shape == (640 * 40,)
    assert np.abs(found[:2000]).max() < 0.02
    assert np.corrcoef(found[3200 : 3200 + 16_000], audio)[0, 1] > 0.9
    assert not found[640 * 35 :].any()
    assert video_audio(write_scene(tmp_path / "mute.mp4", [frame] * 30), 30) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mute.mp4", "has no audio"),
        ("silent.wav", "is silent"),
        ("short.wav", "300 samples long, shorter than a frame"),
        ("text.wav", "no video or audio container"),
        ("absent.wav", "No such file"),
    ],
)
def test_what_cannot_drive_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    write_scene(tmp_path / "mute.mp4", [np.zeros((32, 32, 3), np.uint8)] * 10)
    write_audio_file(tmp_path / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    write_audio_file(tmp_path / "short.wav", hum(300), 16_000)
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(PreflightError, match=message) as error:
        read_driving_audio(tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / name))
