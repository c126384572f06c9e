"""The square around a face: as in the cut, of images and of videos; frames in any order; one line for what fails."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from storage.catalog import ClipRule, CropRule
from storage.errors import PreflightError
from tasks.faces.backend import FaceBackend, load_backend
from tasks.portrait.find import Framing, Portrait, Shot, crops, find_portrait, frames
from tests.scenes import cut_files, dataset_in, hum, write_scene

WHOLE = ClipRule(length_s="whole", min_tail_s=0.4)
CROPPED = Framing(cropped=True)


@pytest.fixture(scope="module")
def backend() -> FaceBackend:
    return load_backend("dlib")


def astronaut() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


def hopper() -> np.ndarray:
    from matplotlib import cbook

    path = Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type, return-value]


def save(path: Path, rgb: np.ndarray, **options: object) -> Path:
    Image.fromarray(rgb).save(path, **options)
    return path


def moved(rgb: np.ndarray, dx: float, dy: float = 0.0, size: tuple[int, int] | None = None) -> np.ndarray:
    height, width = rgb.shape[:2]
    return cv2.warpAffine(rgb, np.float32([[1, 0, dx], [0, 1, dy]]), size or (width, height), borderValue=(60, 70, 80))  # type: ignore[arg-type, return-value]


# ---- the same square as in training


@pytest.mark.parametrize("make", [astronaut, hopper])
def test_an_image_has_the_square_that_the_cut_gives_a_video_of_it_with_room_to_move(
    tmp_path: Path, backend, make
) -> None:
    rgb = make()
    write_scene(tmp_path / "still.mp4", [rgb] * 50, hum(50), crf=4)
    cut = cut_files(tmp_path / "store", [tmp_path / "still.mp4"], dataset_in(tmp_path, WHOLE), backend)
    clip = cut.clips("still")[0]
    portrait = find_portrait(save(tmp_path / "still.png", rgb), lambda: backend, Framing())
    x0, y0, side = portrait.shots[0].box
    # this video does not move at all; one of a speaker takes 1.12 times the room
    assert side == pytest.approx(clip["crop_side_px"] * 1.12, abs=1.5)
    assert x0 + side / 2 == pytest.approx(clip["crop_x_px"] + clip["crop_side_px"] / 2, abs=1)
    assert y0 + side / 2 == pytest.approx(clip["crop_y_px"] + clip["crop_side_px"] / 2, abs=1)
    assert (portrait.num_frames, portrait.shape) == (1, rgb.shape[:2])
    own = (clip["crop_x_px"], clip["crop_y_px"], clip["crop_side_px"])
    stored, crop = cut.frames.frame(clip["clip"], 0), next(crops(_framed(portrait, own), clip["size_px"]))
    assert crop.shape == stored.shape
    assert np.abs(crop.astype(float) - stored).mean() < 4


def _framed(portrait: Portrait, box: tuple[int, int, int]) -> Portrait:
    return replace(portrait, shots=(Shot(0, 1, box),))


def test_a_frame_of_a_clip_and_a_minute_of_clips_are_framed_as_the_clips(tmp_path: Path, media: Path, backend) -> None:
    name = "head_shoulders_450_25fps.mp4"
    layout = ClipRule(length_s=5.0)
    cut = cut_files(tmp_path / "store", [media / name], dataset_in(media, layout), backend)
    clips = [clip for clip in cut.clips(Path(name).stem) if clip["is_stored"]]
    assert len(clips) == 4
    whole = find_portrait(media / name, lambda: backend, Framing())
    assert len(whole.shots) == 1
    whole_frames = frames(whole, 64, range(60, 500, 125), tmp_path, has_whole=True)
    for clip, shown in zip(clips, whole_frames, strict=True):
        assert shown.whole is not None
        still = find_portrait(save(tmp_path / "still.png", shown.whole), lambda: backend, Framing())
        middle = np.array([clip["crop_x_px"], clip["crop_y_px"]]) + clip["crop_side_px"] / 2
        for (x0, y0, side), share in ((still.shots[0].box, 0.08), (whole.shots[0].box, 0.04)):
            assert side == pytest.approx(clip["crop_side_px"], rel=share)
            assert np.abs(np.array([x0, y0]) + side / 2 - middle).max() < 0.05 * side


def test_a_video_has_the_square_and_the_pixels_of_its_clip(tmp_path: Path, backend) -> None:
    rgb = astronaut()
    write_scene(tmp_path / "moving.mp4", [moved(rgb, 2.0 * i, 0.5 * i) for i in range(40)], hum(40))
    cut = cut_files(tmp_path / "store", [tmp_path / "moving.mp4"], dataset_in(tmp_path, WHOLE), backend)
    clip = cut.clips("moving")[0]
    portrait = find_portrait(tmp_path / "moving.mp4", lambda: backend, Framing())
    assert portrait.shots == (Shot(0, 40, (clip["crop_x_px"], clip["crop_y_px"], clip["crop_side_px"])),)
    still = find_portrait(save(tmp_path / "a.png", rgb), lambda: backend, Framing())
    assert portrait.shots[0].box[2] > still.shots[0].box[2] + 30
    found = list(crops(portrait, 256))
    assert len(found) == 40
    for index in (0, 17, 39):
        # the stored one is a JPEG
        assert np.abs(found[index].astype(float) - cut.frames.frame(clip["clip"], index)).mean() < 2


def test_crops_are_resampled_as_pillow_does_and_padded_with_black(tmp_path: Path, backend) -> None:
    rgb = moved(astronaut(), -180, -30)
    portrait = find_portrait(save(tmp_path / "a.png", rgb), lambda: backend, Framing())
    x0, y0, side = portrait.shots[0].box
    assert x0 < -20, "the square leaves the image"
    padded = np.zeros((800, 800, 3), np.uint8)
    padded[100 : 100 + rgb.shape[0], 100 : 100 + rgb.shape[1]] = rgb
    corners = (x0 + 100, y0 + 100, x0 + 100 + side, y0 + 100 + side)
    for size_px in (64, 256):
        expected = np.asarray(Image.fromarray(padded).resize((size_px, size_px), Image.Resampling.BILINEAR, corners))
        found = next(crops(portrait, size_px))
        difference = np.abs(found.astype(float) - expected)
        assert difference.mean() < 0.5
        inner = difference[:, int(-x0 * size_px / side) + 2 :]
        assert inner.max() <= 1.5
    assert not next(crops(portrait, 256))[:, : int(-x0 * 256 / side) - 2].any()


def test_each_shot_has_its_own_square(tmp_path: Path, backend) -> None:
    first, second = astronaut(), moved(hopper()[:512], 60, 20)
    write_scene(tmp_path / "two.mp4", [first] * 30 + [second] * 20, crf=4)
    portrait = find_portrait(tmp_path / "two.mp4", lambda: backend, Framing())
    assert [(shot.first, shot.last) for shot in portrait.shots] == [(0, 30), (30, 50)]
    for shot, rgb in zip(portrait.shots, (first, second), strict=True):
        still = find_portrait(save(tmp_path / "a.png", rgb), lambda: backend, Framing()).shots[0].box
        (x0, y0, side), (left, top, width) = shot.box, still
        assert side * 1.12 == pytest.approx(width, abs=4)
        assert (x0 + side / 2, y0 + side / 2) == pytest.approx((left + width / 2, top + width / 2), abs=4)
    shown = list(frames(portrait, 64, [29, 30], tmp_path, has_whole=True))
    assert [one.box for one in shown] == [shot.box for shot in portrait.shots]


def test_margin_and_largest_side(tmp_path: Path, backend) -> None:
    path = save(tmp_path / "a.png", cv2.resize(astronaut(), (1000, 1000)))
    tight, wide = (
        find_portrait(path, lambda: backend, Framing(CropRule(margin=margin))).shots[0].box for margin in (0.0, 0.5)
    )
    assert wide[2] == pytest.approx(2 * tight[2], abs=2)
    assert wide[0] + wide[2] / 2 == pytest.approx(tight[0] + tight[2] / 2, abs=2)
    small = find_portrait(path, lambda: backend, Framing(CropRule(margin=0.0), max_side_px=500))
    assert small.shape == (500, 500)
    assert small.shots[0].box[2] == pytest.approx(tight[2] / 2, abs=3)


def test_cropped_images_are_taken_whole_and_never_squeezed(tmp_path: Path) -> None:
    def no_backend() -> FaceBackend:
        raise AssertionError("no face is to be looked for")

    rgb = np.full((100, 60, 3), 200, np.uint8)
    portrait = find_portrait(save(tmp_path / "a.png", rgb), no_backend, CROPPED)
    assert portrait.shots[0].box == (-20, 0, 100)
    crop = next(crops(portrait, 100))
    assert (crop[:, 20:80] == 200).all()
    assert not crop[:, :20].any()
    write_scene(tmp_path / "a.mp4", [rgb] * 7)
    assert find_portrait(tmp_path / "a.mp4", no_backend, CROPPED).shots == (Shot(0, 7, (-20, 0, 100)),)


@pytest.mark.parametrize("kind", ["grey.png", "alpha.png", "turned.jpg"])
def test_images_of_every_kind_come_upright_and_in_colour(tmp_path: Path, kind: str) -> None:
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:20] = (250, 20, 20)
    image, options = Image.fromarray(rgb), {}
    if kind == "grey.png":
        image = image.convert("L")
    elif kind == "alpha.png":
        image = image.convert("RGBA")
    else:
        image, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6  # to be shown turned clockwise
        options = {"exif": exif, "quality": 95}
    image.save(tmp_path / kind, **options)
    found = find_portrait(tmp_path / kind, lambda: load_backend("dlib"), CROPPED).image
    assert found is not None
    assert found.shape == (40, 60, 3)
    assert found[5].mean() > found[35].mean() + 50
    if kind != "grey.png":
        assert (np.abs(found[5, 5].astype(int) - (250, 20, 20)) < 12).all()


# ---- frames in any order


def numbered(path: Path, num: int) -> Portrait:
    """A video whose frame i is grey 10 i, 320 px wide so that blocks of it do not stay in little memory."""
    write_scene(path, [np.full((48, 64, 3), 8 * i, np.uint8) for i in range(num)], crf=4)
    return find_portrait(path, lambda: load_backend("dlib"), CROPPED)


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3], [2, 3, 3, 3], [0, 1, 2, 1, 0, 1], [*range(30), *range(28, 0, -1)], [5, 0, 29], [4, 4, 4, 4]]
)
def test_frames_come_in_the_order_that_is_asked_for(tmp_path: Path, order: list[int]) -> None:
    portrait = numbered(tmp_path / "a.mp4", 30)
    shown = list(frames(portrait, 32, order, tmp_path, has_whole=True))
    assert [round(one.crop[16, 16].mean() / 8) for one in shown] == order
    for one in shown:
        assert one.whole is not None
        assert one.whole.shape == (48, 64, 3)
        assert np.ptp(one.whole) <= 3
    assert [round(float(one.whole.mean()) / 8) for one in shown if one.whole is not None] == order
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"], "nothing is left of the frames that waited"


def test_frames_that_wait_do_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.portrait.find._BUFFER_BYTES", 1)
    portrait, order = numbered(tmp_path / "a.mp4", 31), [*range(31), *range(29, 0, -1), *range(20)]
    shown = frames(portrait, 16, order, tmp_path, has_whole=False)
    found = [(round(one.crop[8, 8].mean() / 8), one.whole) for one in shown]
    assert found == [(index, None) for index in order]


def test_an_image_is_shown_as_often_as_asked(tmp_path: Path) -> None:
    rgb = np.full((20, 20, 3), 7, np.uint8)
    portrait = find_portrait(save(tmp_path / "a.png", rgb), lambda: load_backend("dlib"), CROPPED)
    shown = list(frames(portrait, 20, [0, 0, 0], tmp_path, has_whole=True))
    assert len(shown) == 3
    assert np.array_equal(shown[2].whole, rgb)  # type: ignore[arg-type]
    assert np.array_equal(shown[2].crop, rgb)
    assert next(frames(portrait, 20, [0], tmp_path, has_whole=False)).whole is None


# ---- what cannot be used


def refusal(path: Path, backend: FaceBackend, framing: Framing | None = None) -> str:
    with pytest.raises(PreflightError) as error:
        list(crops(find_portrait(path, lambda: backend, framing or Framing()), 64))
    assert "\n" not in str(error.value)
    assert str(error.value).count(str(path)) == 1
    return str(error.value)


def test_no_face(tmp_path: Path, backend) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    assert "no face found;" in refusal(save(tmp_path / "noise.png", noise), backend)
    face = astronaut()
    write_scene(tmp_path / "late.mp4", [np.full_like(face, 90)] * 30 + [face] * 30)
    assert "no face found from 0.00 to 1.20 s" in refusal(tmp_path / "late.mp4", backend)


def test_two_faces_unless_the_largest_is_wanted(tmp_path: Path, backend) -> None:
    face = astronaut()[:300, 80:380]
    small = cv2.copyMakeBorder(cv2.resize(face, (225, 225)), 75, 0, 75, 0, cv2.BORDER_REPLICATE)
    for name, pair in (("left", [face, small]), ("right", [small, face])):
        rgb = np.concatenate(pair, axis=1)
        image = save(tmp_path / f"{name}.png", rgb)
        assert "2 faces; crop it to one of them, or use --largest-face" in refusal(image, backend)
        x0, _, side = find_portrait(image, lambda: backend, Framing(largest_face=True)).shots[0].box
        assert (x0 + side / 2 > 300) == (name == "right")
    write_scene(tmp_path / "two.mp4", [rgb] * 30)
    assert "2 faces from 0.00 to 1.20 s" in refusal(tmp_path / "two.mp4", backend)
    video = find_portrait(tmp_path / "two.mp4", lambda: backend, Framing(largest_face=True))
    left, _, found = video.shots[0].box
    assert found * 1.12 == pytest.approx(side, abs=3)
    assert left + found / 2 == pytest.approx(x0 + side / 2, abs=3)


def test_files_that_cannot_be_read(tmp_path: Path, backend) -> None:
    whole = save(tmp_path / "whole.png", astronaut()).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:60])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.jpg").write_bytes(b"")
    write_scene(tmp_path / "scene.mp4", [astronaut()] * 30)
    content = (tmp_path / "scene.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    assert "damaged, too small, or not an image" in refusal(tmp_path / "cut.png", backend)
    assert "no video or audio container" in refusal(tmp_path / "text.mp4", backend)
    assert "no bytes" in refusal(tmp_path / "empty.jpg", backend)
    assert "the header promises" in refusal(tmp_path / "cut.mp4", backend)
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "absent.png", backend)
    assert "cannot be read (Is a directory)" in refusal(tmp_path, backend)


def test_videos_and_images_are_distinguished_by_content(tmp_path: Path, backend) -> None:
    save(tmp_path / "a.mp4", astronaut(), format="png")
    write_scene(tmp_path / "d.png", [astronaut()] * 2)
    found = [find_portrait(tmp_path / name, lambda: backend, CROPPED) for name in ("a.mp4", "d.png")]
    assert [portrait.image is None for portrait in found] == [False, True]
