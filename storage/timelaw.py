"""The time law: one clip of N video frames has exactly 640 N audio samples, N landmark rows, N boxes.

Every length in the project comes from this file.
"""

FPS = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS


def num_samples(num_frames: int) -> int:
    """Audio samples at 16 kHz that belong to `num_frames` video frames at 25 fps."""
    return SAMPLES_PER_FRAME * num_frames


def axis_length(symbol: int | str, num_frames: int) -> int:
    """Length of a symbolic axis for a clip of `num_frames` frames.

    'N' is one row per video frame, '2N' one per 20 ms, 'T80' one mel column per 12.5 ms of a centred STFT
    (1 + floor(640 N / 200)); an int is itself.

    Raises:
        KeyError: the symbol is none of these.
    """
    if isinstance(symbol, int):
        return symbol
    return {"N": num_frames, "2N": 2 * num_frames, "T80": 1 + num_samples(num_frames) // 200}[symbol]
