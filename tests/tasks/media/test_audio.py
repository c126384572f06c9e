"""Reading audio: 16-kHz mono against closed forms, encoder delays, gaps, silence, and cuts by slot."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tasks.media.audio import AudioTrack, cut_audio, read_audio
from tests.media_samples import Audio, tone, write_audio_only, write_video


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_becomes_16_khz(tmp_path, rate_hz):
    audio = Audio(tone(2.0, rate_hz), rate_hz, codec="pcm_s16le", format="s16")
    track = read_audio(write_audio_only(tmp_path / "a.wav", audio))
    assert track is not None
    assert abs(len(track.samples) - 32_000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    middle = slice(400, 31_600)
    assert np.abs(track.samples[middle] - expected[middle]).max() < 2e-3


def test_streamed_resampling_equals_soxr_at_once(tmp_path):
    import soxr

    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 48_000 * 5).astype(np.float32)
    path = write_audio_only(tmp_path / "n.wav", Audio(noise[None], codec="pcm_f32le", format="flt"))
    track = read_audio(path)
    assert track is not None
    expected = soxr.resample(noise, 48_000, 16_000, quality="HQ")
    assert len(track.samples) == len(expected) == 80_000
    np.testing.assert_allclose(track.samples, expected, atol=1e-5)


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
@pytest.mark.parametrize(
    ("codec", "sample_format", "suffix"),
    [("pcm_s16le", "s16", "wav"), ("pcm_u8", "u8", "wav"), ("pcm_s32le", "s32", "wav"), ("pcm_f64le", "dbl", "wav"),
     ("flac", "s16", "flac"), ("aac", "fltp", "m4a")],
)  # fmt: skip
def test_channels_are_averaged_without_gain(tmp_path, layout, channels, codec, sample_format, suffix):
    samples = tone(1.5, 16_000, channels)
    if codec != "aac":
        samples *= np.linspace(0.5, 1.0, channels, dtype=np.float32)[:, None]
    audio = Audio(samples, 16_000, codec, layout, format=sample_format)
    track = read_audio(write_audio_only(tmp_path / f"a.{suffix}", audio))
    assert track is not None
    expected = samples.mean(axis=0)
    tolerance = {"aac": 0.1, "pcm_u8": 0.015}.get(codec, 1e-4)  # AAC takes the tone out of the low-frequency channel
    middle = slice(2000, 20_000)
    assert np.abs(track.samples[middle] - expected[middle]).max() < tolerance


@pytest.mark.parametrize(
    ("codec", "sample_format", "suffix"),
    [("aac", "fltp", "m4a"), ("libmp3lame", "fltp", "mp3"), ("flac", "s16", "flac"), ("libopus", "flt", "ogg"),
     ("aac", "fltp", "mp4"), ("aac", "fltp", "mkv")],
)  # fmt: skip
def test_encoder_delay_does_not_shift_the_audio(tmp_path, codec, sample_format, suffix):
    samples = np.zeros((1, 48_000), np.float32)
    samples[0, 24_000:28_800] = tone(0.1, hz=1000.0)
    track = read_audio(write_audio_only(tmp_path / f"a.{suffix}", Audio(samples, codec=codec, format=sample_format)))
    assert track is not None
    onset = np.flatnonzero(np.abs(track.samples) > 0.2)[0] / 16_000 + track.start_s
    assert onset == pytest.approx(0.5, abs=0.004)


def test_sixty_seconds_of_a_real_clip(media):
    track = read_audio(media / "cropped_256_25fps_60s.mp4")
    assert track is not None
    assert track.samples.dtype == np.float32
    assert track.start_s == 0.0
    assert abs(len(track.samples) / 16_000 - 59.96) < 0.03
    assert np.abs(track.samples).max() <= 1.0
    assert not track.is_silent


def test_gap_in_the_timestamps_becomes_silence(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start_s in (0.0, 1.7):
            frame = av.AudioFrame.from_ndarray((tone(1.0, 16_000) * 32767).astype(np.int16), "s16", "mono")
            frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
            frame.pts = round(start_s * 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    track = read_audio(path)
    assert track is not None
    assert abs(len(track.samples) - 2.7 * 16_000) < 20
    assert np.abs(track.samples[16_100:27_100]).max() == 0.0
    assert np.abs(track.samples[27_300:]).max() > 0.4


def test_nan_and_infinity_are_cleaned_and_loud_audio_is_clipped(tmp_path):
    samples = 3.0 * tone(1.0)
    samples[0, 1000:1010] = np.nan
    samples[0, 2000] = np.inf
    track = read_audio(write_audio_only(tmp_path / "a.wav", Audio(samples, codec="pcm_f32le", format="flt")))
    assert track is not None
    assert np.isfinite(track.samples).all()
    assert np.abs(track.samples).max() <= 1.0
    assert abs(len(track.samples) - 16_000) <= 1


@pytest.mark.parametrize(("level", "is_silent"), [(0.0, True), (1e-4, True), (0.01, False)])
def test_silence_is_flagged(tmp_path, level, is_silent):
    audio = Audio(tone(1.0, level=level), codec="pcm_f32le", format="flt")
    track = read_audio(write_audio_only(tmp_path / "a.wav", audio))
    assert track is not None
    assert track.is_silent == is_silent


def test_formats_only_libsndfile_knows_are_left_to_librosa(tmp_path):
    import soundfile

    path = tmp_path / "a.aiff"
    soundfile.write(path, tone(1.0, 44_100, 2).T, 44_100, subtype="PCM_16")
    track = read_audio(path)
    assert track is not None
    assert abs(len(track.samples) - 16_000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(track.samples[400:15_600] - expected[400:15_600]).max() < 2e-3


def test_no_audio_stream_is_none(tmp_path):
    assert read_audio(write_video(tmp_path / "v.mp4", 5)) is None


def test_cut_audio_places_samples_by_time():
    track = AudioTrack(np.arange(1, 16_001, dtype=np.float32), start_s=0.1, is_silent=False)
    cut = cut_audio(track, 0, 5)
    assert cut.shape == (3200,)
    assert (cut[:1600] == 0).all()
    np.testing.assert_array_equal(cut[1600:], np.arange(1, 1601))
    np.testing.assert_array_equal(cut_audio(track, 5, 1), np.arange(1601, 2241))
    end = cut_audio(track, 26, 3)
    np.testing.assert_array_equal(end[:960], np.arange(15_041, 16_001))
    assert (end[960:] == 0).all()
    assert (cut_audio(track, -10, 3) == 0).all()
    assert (cut_audio(track, 1000, 3) == 0).all()
