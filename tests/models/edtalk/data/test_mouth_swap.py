"""The mouth swap: known transforms are found, what is not replaced stays, nothing black comes in, colours fit."""

import cv2
import numpy as np
import pytest

from models.edtalk.data.mouth_swap import Face, SwapOptions, match_colours, mouth_mask, mouth_transform, swap_mouth
from tests.synthetic_store import Look, draw_face, neutral_face

LOOK = Look.of("S000")
LIPS = slice(48, 68)


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    """[2, 3]; turns about the middle of the image."""
    matrix = cv2.getRotationMatrix2D((127.5, 127.5), degrees, scale)
    matrix[:, 2] += (x, y)
    return matrix


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def textured(seed: int = 0) -> np.ndarray:
    """Smooth random colours without flat places."""
    noise = np.random.default_rng(seed).uniform(0, 255, (16, 16, 3)).astype(np.float32)
    return cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC).clip(30, 225).astype(np.uint8)


def opened(points: np.ndarray, drop_px: float) -> np.ndarray:
    points = points.copy()
    points[[*range(55, 60), 65, 66, 67], 1] += drop_px
    return points


def hull_distance(points: np.ndarray) -> np.ndarray:
    """[256, 256] signed distance to the convex hull of points, positive outside: measured point by point."""
    hull = cv2.convexHull(points.astype(np.float32))
    y, x = np.mgrid[:256, :256].astype(float)
    distance = [-cv2.pointPolygonTest(hull, place, True) for place in zip(x.ravel(), y.ravel(), strict=True)]
    return np.reshape(distance, (256, 256))


@pytest.mark.parametrize(
    ("scale", "degrees", "x", "y"), [(1, 0, 0, 0), (1.3, 0, 0, 0), (0.8, 20, 0, 0), (1, -35, 12, -7), (0.7, 170, 30, 9)]
)
def test_a_known_similarity_is_found(scale: float, degrees: float, x: float, y: float) -> None:
    known = similarity(scale, degrees, x, y)
    found = mouth_transform(neutral_face(), moved(neutral_face(), known))
    np.testing.assert_allclose(found, known, atol=1e-9)


def test_lips_meet_lips_and_eyes_lie_as_well_as_they_can() -> None:
    face, other = neutral_face(), neutral_face() * (1.0, 1.2) + (3, -8)
    matrix = mouth_transform(face, other)
    there = moved(face, matrix)
    np.testing.assert_allclose(there[60:68].mean(axis=0), other[60:68].mean(axis=0), atol=1e-9)
    turn = matrix[:, :2]
    np.testing.assert_allclose(turn @ turn.T, np.eye(2) * np.linalg.det(turn), atol=1e-12)

    def centres(points: np.ndarray) -> np.ndarray:
        three = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[60:68].mean(axis=0)])
        return three - three.mean(axis=0)

    def error(scale: float, radians: float) -> float:
        turn = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        return float(np.square(centres(face) @ turn.T - centres(other)).sum())

    scale, radians = np.sqrt(np.linalg.det(turn)), np.arctan2(turn[1, 0], turn[0, 0])
    best = error(scale, radians)
    assert all(error(scale * (1 + a), radians + b) > best for a, b in [(1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)])


def test_a_face_that_was_moved_gives_back_its_own_mouth() -> None:
    """The mouth of a turned copy of the image is the image's mouth: the canvas is whole and nothing is displaced."""
    face = Face(textured(), neutral_face())
    known = similarity(1.1, 8, 5, -4)
    copy = Face(cv2.warpAffine(face.image, known, (256, 256)), moved(face.points, known))
    back = swap_mouth(face, copy, SwapOptions(has_colour_match=False))
    near = hull_distance(face.points[LIPS]) < 13
    error = np.abs(back.astype(int) - face.image)[near]
    assert error.mean() < 1.5
    assert error.max() <= 12


def test_beyond_the_feather_the_image_is_untouched_and_within_the_lips_all_is_the_others() -> None:
    """With a mouth wider and further open than the target's: all of both mouths is replaced."""
    wide = neutral_face()
    wide[LIPS, 0] = 127.5 + 1.5 * (wide[LIPS, 0] - 127.5)
    target, other = Face(textured(1), neutral_face()), Face(textured(2), opened(wide, 15))
    options = SwapOptions(margin_px=5, feather_px=8, has_colour_match=False)
    swapped = swap_mouth(target, other, options)
    matrix = mouth_transform(other.points, target.points)
    lips = np.concatenate([target.points[LIPS], moved(other.points[LIPS], matrix)])
    distance = hull_distance(lips)
    beyond, within = distance > 14.5, distance < 3.5
    np.testing.assert_array_equal(swapped[beyond], target.image[beyond])
    there = cv2.warpAffine(other.image, matrix, (256, 256), borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_array_equal(swapped[within], there[within])
    between = (distance > 6.5) & (distance < 11.5)
    # in the feather every value lies between both images
    low, high = np.minimum(target.image, there)[between], np.maximum(target.image, there)[between]
    assert ((swapped[between] >= low) & (swapped[between] <= high)).all()
    assert within.sum() > 2000
    for index in (48, 54, 57):
        x, y = np.rint(moved(other.points[index], matrix)).astype(int)
        np.testing.assert_array_equal(swapped[y, x], there[y, x])


def test_the_mask_has_no_edge() -> None:
    """Black set into white: from one pixel to the next no more changes than a feather of 8 px makes."""
    white, black = (Face(np.full((256, 256, 3), value, np.uint8), neutral_face()) for value in (255, 0))
    swapped = swap_mouth(white, black, SwapOptions(has_colour_match=False))[..., 0].astype(int)
    assert swapped.min() == 0
    steepest = 255 * 1.5 / 8  # of a smooth step
    for axis in (0, 1):
        assert np.abs(np.diff(swapped, axis=axis)).max() <= steepest * 1.15 + 1


@pytest.mark.parametrize("shift", [(0, 70), (80, 40), (-80, 60)])
def test_low_and_sideward_mouths_have_no_black_borders(shift: tuple[int, int]) -> None:
    """The released code drew on 224 px: whatever lay beyond was black. Here even a face half outside stays bright."""
    bright = np.full((256, 256, 3), 200, np.uint8)
    here, there = neutral_face(), neutral_face() + shift
    for target, other in ((here, there), (there, here)):
        assert swap_mouth(Face(bright, target), Face(bright, other)).min() == 200


def test_another_light_on_the_same_face_is_matched() -> None:
    """The patch gets mean and spread of the skin around it, so that a darker, tinted copy comes back as it was."""
    face = Face((textured(3) * 0.5 + 60).astype(np.uint8), neutral_face())
    factor = np.array([0.7, 0.8, 0.6])
    dark = Face(np.rint(face.image * factor).astype(np.uint8), face.points)
    matched, raw = (swap_mouth(face, dark, SwapOptions(has_colour_match=match)) for match in (True, False))
    near = hull_distance(face.points[LIPS]) < 13
    assert np.abs(matched.astype(int) - face.image)[near].max() <= 2
    assert np.abs(raw.astype(int) - face.image)[near].mean() > 20


def test_means_and_spreads_of_textured_skin_are_matched() -> None:
    rng = np.random.default_rng(0)
    patch = (np.array([120, 90, 70]) + 30 * rng.standard_normal((64, 64, 3))).astype(np.float32)
    ground = (np.array([150, 130, 100]) + 45 * rng.standard_normal((64, 64, 3))).astype(np.float32)
    skin = rng.random((64, 64)) < 0.5
    matched = match_colours(patch, ground, skin)
    np.testing.assert_allclose(np.median(matched[skin], axis=0), np.median(ground[skin], axis=0), atol=1e-3)
    np.testing.assert_allclose(matched[skin].mean(axis=0), ground[skin].mean(axis=0), atol=2)
    np.testing.assert_allclose(matched[skin].std(axis=0), ground[skin].std(axis=0), rtol=0.05)


def test_flat_skin_gives_no_contrast() -> None:
    """What little noise flat skin has must not become a factor of lips and teeth: that is told by the means."""
    rng = np.random.default_rng(0)
    patch = (100 + 0.1 * rng.standard_normal((64, 64, 3))).astype(np.float32)
    ground = (80 + 1.0 * rng.standard_normal((64, 64, 3))).astype(np.float32)
    skin = np.ones((64, 64), bool)
    skin[20:30] = False
    patch[20:30] = 50
    assert match_colours(patch, ground, skin)[25, 25].tolist() == pytest.approx([40] * 3, abs=1.5)


def test_a_few_odd_pixels_do_not_count() -> None:
    """A nostril, the edge of a chin: a tenth of the ring is dark in the one image only."""
    patch, ground = np.full((64, 64, 3), 120, np.float32), np.full((64, 64, 3), 120, np.float32)
    patch[:6] = 20
    np.testing.assert_allclose(match_colours(patch, ground, np.ones((64, 64), bool)), patch, atol=1e-3)


def test_without_skin_nothing_is_matched() -> None:
    patch = np.full((8, 8, 3), 10, np.float32)
    assert match_colours(patch, patch * 9, np.zeros((8, 8), bool)) is patch


def test_lengths_scale_with_the_image() -> None:
    large = Face(textured(4), neutral_face())
    small = Face(cv2.resize(large.image, (128, 128), interpolation=cv2.INTER_AREA), (neutral_face() + 0.5) / 2 - 0.5)
    black_large, black_small = (Face(np.zeros_like(face.image), face.points) for face in (large, small))
    share = [
        (swap_mouth(face, black, SwapOptions(has_colour_match=False)) != face.image).any(axis=2).mean()
        for face, black in ((large, black_large), (small, black_small))
    ]
    assert share[0] == pytest.approx(share[1], rel=0.1)


def test_a_drawn_face_shows_the_others_mouth_and_keeps_everything_else() -> None:
    shut, wide = neutral_face(), opened(neutral_face(), 18)
    faces = [Face(draw_face(points.astype(np.float32), LOOK), points) for points in (shut, wide)]
    swapped = swap_mouth(*faces)
    inside = cv2.fillConvexPoly(np.zeros((256, 256), np.uint8), np.rint(wide[60:68]).astype(np.int32), 1)
    matrix = mouth_transform(wide, shut)
    there = cv2.warpAffine(inside, matrix, (256, 256), flags=cv2.INTER_NEAREST).astype(bool)
    eroded = cv2.erode(there.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert eroded.sum() > 200
    assert swapped[eroded].mean() < 60, "the dark of the open mouth"
    assert faces[0].image[eroded].mean() > 75, "lips and skin were there"
    np.testing.assert_array_equal(swapped[:140], faces[0].image[:140])


@pytest.mark.parametrize("side_px", [128, 256])
def test_the_mouth_is_what_lies_near_the_lips(side_px: int) -> None:
    """Lips drawn as a rectangle: the mask is that rectangle with a border of known width and round corners."""
    px = side_px / 256
    points = np.zeros((68, 2))
    corners = np.array([(100, 150), (140, 150), (140, 170), (100, 170)]) * px
    points[48:68] = corners[np.arange(20) % 4]
    y, x = np.mgrid[:side_px, :side_px]
    beyond = np.hypot(np.maximum(0, np.abs(x - 120 * px) - 20 * px), np.maximum(0, np.abs(y - 160 * px) - 10 * px)) / px
    mask = mouth_mask(points, side_px, 12.0)
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert (mask[beyond <= 12 - 1 / px] == 1).all()
    assert (mask[beyond >= 12 + 1 / px] == 0).all()
