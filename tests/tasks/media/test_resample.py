"""Crops against Pillow on whole converted frames; padding, geometry, colour and layouts."""

import numpy as np
import pytest
from PIL import Image

from tasks.media.resample import CropResizer, crop_transform
from tasks.media.video import YuvColor, iter_slots

LIMITED = YuvColor()
RED_BLUE = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def crop_rgb(y, u, v, box, size, color):
    """RGB uint8 [size, size, 3] of one crop of one frame."""
    return CropResizer(box, size, y.shape, color)(y, u, v)


def axis_of_chroma(length, offset):
    """Position of each luma pixel on the chroma axis, clamped: left siting has offset 0, middle siting 0.5."""
    return np.clip((np.arange(length) - offset) / 2, 0, (length + 1) // 2 - 1)


def full_size(plane, height, width):
    """Bilinear chroma at luma resolution, MPEG-2 siting (left in x, middle in y)."""
    for axis, positions in ((0, axis_of_chroma(height, 0.5)), (1, axis_of_chroma(width, 0.0))):
        low = np.floor(positions).astype(int)
        share = (positions - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, plane.shape[axis] - 1)
        plane = plane.take(low, axis) * (1 - share) + plane.take(high, axis) * share
    return plane


def to_rgb(y, u, v, color):
    """Whole frame in float64, straight from the ITU definition: [H, W, 3] uint8."""
    red, blue = RED_BLUE[color.matrix]
    height, width = y.shape
    luma, cb, cr = y.astype(float), *(full_size(plane.astype(float), height, width) - 128 for plane in (u, v))
    if color.is_full_range:
        luma, cb, cr = luma / 255, cb / 255, cr / 255
    else:
        luma, cb, cr = (luma - 16) / 219, cb / 224, cr / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.rint(255 * np.stack([r, g, b], -1)), 0, 255).astype(np.uint8)


def expected_crop(rgb, box, size):
    """Pillow on the frame laid on a black canvas that holds frame and box."""
    (x0, y0, side), (height, width) = box, rgb.shape[:2]
    left, top = max(0, -x0), max(0, -y0)
    canvas = np.zeros((top + max(height, y0 + side), left + max(width, x0 + side), 3), np.uint8)
    canvas[top : top + height, left : left + width] = rgb
    corner = (x0 + left, y0 + top)
    region = (*corner, corner[0] + side, corner[1] + side)
    return np.asarray(Image.fromarray(canvas).resize((size, size), Image.Resampling.BILINEAR, box=region))


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b.astype(float)) ** 2)))


def real_frame(path, index):
    frame = next(frame for i, frame in enumerate(iter_slots(path)) if i == index)
    return frame.y.copy(), frame.u.copy(), frame.v.copy(), frame.color


@pytest.fixture(scope="module")
def frames(media):
    names = {"portrait": "portrait_1080x1920_30fps_hevc.mp4", "head": "head_shoulders_450_25fps.mp4",
             "small": "cropped_256_25fps_60s.mp4"}  # fmt: skip
    return {key: real_frame(media / name, 30) for key, name in names.items()}


@pytest.mark.parametrize(
    ("name", "box", "size"),
    [
        ("portrait", (40, 300, 1000), 256),
        ("portrait", (101, 403, 640), 256),
        ("portrait", (333, 701, 351), 256),
        ("portrait", (333, 700, 350), 512),
        ("portrait", (-100, 300, 1200), 256),
        ("portrait", (400, 500, 256), 256),
        ("head", (0, 0, 450), 256),
        ("head", (75, 31, 250), 256),
        ("head", (-60, 120, 420), 256),
        ("head", (51, 33, 300), 200),
        ("small", (0, 0, 256), 256),
        ("small", (60, 90, 120), 256),
        ("small", (-40, -20, 256), 256),
        ("small", (128, 128, 200), 97),
    ],
)
def test_real_crops_equal_pillow_on_the_converted_frame(frames, name, box, size):
    y, u, v, color = frames[name]
    found = crop_rgb(y, u, v, box, size, color)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    assert psnr(found, expected_crop(to_rgb(y, u, v, color), box, size)) >= 45


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("is_full_range", [False, True])
def test_flat_colours_are_exact(matrix, is_full_range):
    color = YuvColor(matrix, is_full_range)
    for values in (
        (16, 128, 128),
        (235, 128, 128),
        (81, 90, 240),
        (145, 54, 34),
        (41, 240, 110),
        (0, 0, 0),
        (255, 255, 255),
    ):
        planes = [
            np.full(shape, value, np.uint8) for shape, value in zip([(60, 80), (30, 40), (30, 40)], values, strict=True)
        ]
        found = crop_rgb(*planes, (10, 5, 41), 24, color)
        expected = to_rgb(*planes, color)[0, 0]
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (found == found[0, 0]).all()


def test_black_and_white_are_black_and_white():
    for level, expected in ((16, 0), (235, 255)):
        y, chroma = np.full((40, 40), level, np.uint8), np.full((20, 20), 128, np.uint8)
        assert (crop_rgb(y, chroma, chroma, (3, 3, 30), 64, LIMITED) == expected).all()


@pytest.mark.parametrize(
    "box", [(-30, -10, 100), (50, 20, 100), (-64, -64, 256), (-20, 10, 40), (500, 500, 60), (-300, 0, 64)]
)
@pytest.mark.parametrize("size", [50, 128, 256])
def test_padding_is_black_and_nothing_is_squeezed(box, size):
    """Strong colour up to the edge: black outside, elsewhere as Pillow on a black canvas."""
    height, width = 120, 140
    y = np.full((height, width), 120, np.uint8)
    u, v = np.full((60, 70), 60, np.uint8), np.full((60, 70), 200, np.uint8)
    found = crop_rgb(y, u, v, box, size, LIMITED).astype(int)
    expected = expected_crop(to_rgb(y, u, v, LIMITED), box, size).astype(int)
    assert np.abs(found - expected).max() <= 2
    x0, y0, side = box
    centres = (np.arange(size) + 0.5) * side / size
    reach = max(1.0, side / size)
    is_out = [
        (start + centres < -reach) | (start + centres > end + reach) for start, end in ((x0, width), (y0, height))
    ]
    assert (found[:, is_out[0]] == 0).all()
    assert (found[is_out[1]] == 0).all()


@pytest.mark.parametrize("shape", [(333, 451), (1, 1), (2, 3), (47, 63)])
def test_odd_frames(shape):
    random = np.random.default_rng(0)
    height, width = shape
    y = np.clip(np.cumsum(random.normal(0, 3, shape), axis=1) + 120, 16, 235).astype(np.uint8)
    chroma = np.full(((height + 1) // 2, (width + 1) // 2), 140, np.uint8)
    box = (-3, -2, max(shape) + 4)
    found = crop_rgb(y, chroma, chroma, box, 64, LIMITED)
    assert psnr(found, expected_crop(to_rgb(y, chroma, chroma, LIMITED), box, 64)) >= 45


@pytest.mark.parametrize(
    ("box", "size"), [((100, 60, 300), 256), ((-31, 17, 419), 256), ((140, 90, 101), 256), ((0, 0, 400), 97)]
)
def test_transform_maps_a_dot_to_where_it_is_drawn(box, size):
    rows, columns = np.mgrid[0:400, 0:400]
    for x, y in ((180.3, 150.8), (200.0, 121.5), (165.5, 170.25)):
        dot = 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
        chroma = np.full((200, 200), 128, np.uint8)
        crop = crop_rgb(np.rint(16 + dot).astype(np.uint8), chroma, chroma, box, size, LIMITED)[..., 1].astype(float)
        weights = crop * (crop > 4)
        places = np.arange(size)
        found = np.array([(weights.sum(0) * places).sum(), (weights.sum(1) * places).sum()]) / weights.sum()
        expected = crop_transform(box, size) @ [x, y, 1.0]
        assert expected[2] == 1.0
        assert np.abs(found - expected[:2]).max() < 0.1


def test_transform_in_closed_form():
    np.testing.assert_allclose(crop_transform((10, 20, 64), 64), [[1, 0, -10], [0, 1, -20], [0, 0, 1]])
    # Shrunk by two, the first two pixels of the source share the first pixel of the crop.
    np.testing.assert_allclose(crop_transform((10, 20, 128), 64) @ [10.5, 20.5, 1], [0, 0, 1], atol=1e-12)


def test_chroma_follows_luma():
    """A colour edge lies where the luma edge of the same object lies, to a fraction of a pixel."""
    y = np.full((128, 128), 60, np.uint8)
    u, v = np.full((64, 64), 128, np.uint8), np.full((64, 64), 128, np.uint8)
    y[:, 64:], v[:, 32:] = 160, 220
    rgb = crop_rgb(y, u, v, (32, 32, 64), 256, LIMITED).astype(float)
    edge = [np.interp((row.min() + row.max()) / 2, row, np.arange(256)) for row in (rgb[128, :, 0], rgb[128, :, 2])]
    assert abs(edge[0] - edge[1]) < 4  # one source pixel


def test_layouts_of_the_planes_do_not_matter(frames):
    y, u, v, color = frames["head"]
    box = (20, 30, 380)
    expected = crop_rgb(y, u, v, box, 256, color)
    resizer = CropResizer(box, 256, y.shape, color)
    padded = [np.pad(plane, ((0, 0), (0, 17)))[:, : plane.shape[1]] for plane in (y, u, v)]
    flipped = [np.ascontiguousarray(plane[::-1, ::-1])[::-1, ::-1] for plane in (y, u, v)]
    turned = [np.asfortranarray(plane) for plane in (y, u, v)]
    for planes in (padded, flipped, turned):
        np.testing.assert_array_equal(resizer(*planes), expected)
    frozen = [plane.copy() for plane in (y, u, v)]
    for plane in frozen:
        plane.flags.writeable = False
    np.testing.assert_array_equal(resizer(*frozen), expected)


def test_calls_do_not_share_their_result(frames):
    y, u, v, color = frames["small"]
    resizer = CropResizer((0, 0, 200), 128, y.shape, color)
    first = resizer(y, u, v)
    kept = first.copy()
    resizer(255 - y, u, v)
    np.testing.assert_array_equal(first, kept)


def test_wrong_arguments_are_named():
    y, chroma = np.zeros((40, 60), np.uint8), np.zeros((20, 30), np.uint8)
    with pytest.raises(ValueError, match=r"\(20, 30\).*\(20, 20\)"):
        crop_rgb(y, chroma[:, :20], chroma, (0, 0, 10), 16, LIMITED)
    with pytest.raises(ValueError, match="positive"):
        crop_rgb(y, chroma, chroma, (0, 0, 0), 16, LIMITED)
