"""The square goes back where it came from, with a soft edge, and nothing else changes."""

import numpy as np
import pytest

from tasks.media.resample import CropResizer
from tasks.media.video import YuvColor
from tasks.portrait.paste_back import FEATHER, PasteBack


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("box", [(30, 20, 60), (-25, 10, 80), (90, 60, 70), (-10, -10, 200), (0, 0, 1)])
def test_pixels_outside_of_the_mask_are_untouched(box: tuple[int, int, int]) -> None:
    image, square = noise(100, 140), noise(64, 64, 1)
    before, paste = image.copy(), PasteBack(box, image.shape)
    result = paste(image, square)
    mask = np.zeros(image.shape[:2])
    mask[paste.region] = paste.mask
    assert np.array_equal(image, before), "the image itself is left alone"
    assert np.array_equal(result[mask == 0], image[mask == 0])
    inside = np.zeros_like(mask, bool)
    x0, y0, side = box
    inside[max(y0, 0) : y0 + side, max(x0, 0) : x0 + side] = True
    assert not mask[~inside].any()
    if side > 50:
        assert (result[mask > 0.9] != image[mask > 0.9]).any(axis=-1).mean() > 0.95


def test_the_middle_is_the_square_pixel_by_pixel() -> None:
    image, square = noise(100, 140), noise(60, 60, 1)
    paste = PasteBack((30, 20, 60), image.shape)
    result, edge = paste(image, square), int(np.ceil(60 * FEATHER))
    assert np.array_equal(result[20 + edge : 80 - edge, 30 + edge : 90 - edge], square[edge:-edge, edge:-edge])


def test_the_edge_is_soft_and_symmetric() -> None:
    paste = PasteBack((20, 20, 100), (140, 140))
    result = paste(np.full((140, 140, 3), 50, np.uint8), np.full((256, 256, 3), 200, np.uint8))
    row = result[70, :, 0].astype(int)
    assert (row[20], row[70], row[119]) == (50, 200, 50)
    assert np.array_equal(row, row[::-1])
    assert np.array_equal(result, result.transpose(1, 0, 2))
    steps = np.diff(row[:71])
    assert steps.min() >= 0
    # a smoothstep of 12 px over 150 levels is nowhere steeper than 1.5 of its mean
    assert steps.max() <= 1.5 * 150 / 12 + 1


def test_where_the_square_leaves_the_image_there_is_no_edge() -> None:
    paste = PasteBack((-20, 30, 100), (160, 160))
    assert (paste.mask.shape, paste.region) == ((100, 80), (slice(30, 130), slice(0, 80)))
    assert (paste.mask[50, :60] == 1).all()
    assert paste.mask[50, -1] == 0
    assert PasteBack((-30, -30, 300), (160, 160)).mask.min() == 1


def test_a_square_beside_the_image_changes_nothing() -> None:
    image = noise(50, 50)
    assert np.array_equal(PasteBack((60, 10, 20), image.shape)(image, noise(8, 8)), image)


@pytest.mark.parametrize(("side", "size_px"), [(90, 256), (90, 90), (90, 48)])
def test_what_was_cut_out_goes_back_to_its_place(side: int, size_px: int) -> None:
    """A smooth image, cut as the cropper does and pasted again, is what it was."""
    y, x = np.mgrid[:120, :150]
    image = np.stack([120 + 100 * np.sin(x / 25 + y / 40), 60 + x, 40 + y], axis=-1).astype(np.uint8)
    grey = np.full((60, 75), 128, np.uint8)
    resizer = CropResizer((31, 17, side), size_px, (120, 150), YuvColor(is_full_range=True))
    square = np.dstack([resizer(np.ascontiguousarray(image[..., i]), grey, grey)[..., 0] for i in range(3)])
    result = PasteBack((31, 17, side), image.shape)(image, square)
    assert np.abs(result.astype(int) - image).max() <= 4
    assert np.abs(result.astype(int) - image).mean() < 0.5
    shifted = PasteBack((33, 17, side), image.shape)(image, square)
    assert np.abs(shifted.astype(int) - image).mean() > 0.7, "two pixels aside it would be seen"


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an image of \(40, 50\) px"):
        PasteBack((0, 0, 10), (40, 50))(noise(50, 40), noise(8, 8))
