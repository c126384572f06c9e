"""Video and audio files: decoding, resampling, encoding."""
