import numpy as np
import pytest

from tasks.media.frame_buffer import BLOCK_FRAMES, FrameBuffer


def image(index: int, height: int, width: int):
    rng = np.random.default_rng(index)
    half = ((height + 1) // 2, (width + 1) // 2)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((height, width), half, half)]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 45)])
@pytest.mark.parametrize("max_ram_bytes", [1 << 30, 1])
def test_frames_come_back_as_they_were_put(tmp_path, height, width, max_ram_bytes):
    buffer = FrameBuffer(height, width, tmp_path, max_ram_bytes)
    released = 0
    for index in range(7 * BLOCK_FRAMES + 3):
        buffer.append(*image(index, height, width))
        if index % 60 == 59:
            released = index - 30
            buffer.release_before(released)
            for wanted in [*range(released, index), released]:
                planes = buffer.planes(wanted)
                for got, put in zip((planes.y, planes.u, planes.v), image(wanted, height, width), strict=True):
                    assert np.array_equal(got, put)
    buffer.close()
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_bounded(tmp_path):
    buffer = FrameBuffer(64, 64, tmp_path, max_ram_bytes=3 * BLOCK_FRAMES * 64 * 64 * 3 // 2)
    for index in range(20 * BLOCK_FRAMES):
        buffer.append(*image(index, 64, 64))
    assert len(buffer._blocks) + len(buffer._free) <= 3


def test_the_file_grows_with_what_waits_not_with_the_video(tmp_path):
    buffer = FrameBuffer(64, 64, tmp_path, max_ram_bytes=1)
    for index in range(40 * BLOCK_FRAMES):
        buffer.append(*image(index, 64, 64))
        buffer.release_before(index - 4 * BLOCK_FRAMES)
    assert buffer._num_places <= 6


def test_planes_are_views_of_the_buffer_not_of_the_decoder(tmp_path):
    buffer = FrameBuffer(16, 16, tmp_path)
    y, u, v = image(0, 16, 16)
    kept = buffer.append(y, u, v)
    before = kept.y.copy()
    y[:] = 0
    assert np.array_equal(kept.y, before)
