"""Images one after the other: what they cost, that they are the model's, that memory does not grow."""

import gc
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.edtalk.inference.animator import Animator, Tracks
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.navigation import Codes
from models.edtalk.networks.shape import Shape
from storage.errors import ConfigError

SMALL = Shape(size_px=32, width=1 / 32, latent_dim=48)
TINY = Shape(size_px=16, width=1 / 64, latent_dim=48)


def make_model(shape: Shape = SMALL, **options: bool) -> EDTalk:
    """With smaller flows than random weights give, so that rounding does not decide which pixel is read."""
    torch.manual_seed(0)
    model = EDTalk(shape, **options)
    with torch.no_grad():
        for to_flow in model.dec.to_flows:
            to_flow.conv.weight.mul_(0.05)
    return model


def noise(num: int, size_px: int = 32, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (num, size_px, size_px, 3), dtype=np.uint8))


def random_tracks(num: int, has_expression: bool = True) -> Tracks:
    make = torch.Generator().manual_seed(1)
    mouth, pose, expression = (torch.randn(num, size, generator=make) for size in (20, 6, 10))
    return Tracks(mouth, pose, expression if has_expression else None)


def images_of(frames: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 127.5 - 1


def levels(images: torch.Tensor) -> np.ndarray:
    return (images.clamp(-1, 1) * 127.5 + 127.5).round().permute(0, 2, 3, 1).numpy()


def distance(found: list[np.ndarray], expected: np.ndarray | list[np.ndarray]) -> float:
    """Largest difference in levels of 255."""
    return float(np.abs(np.stack(found).astype(float) - np.stack(list(expected))).max())


# ---- cost


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Everything is computed but the numbers; what would leave the device comes out as zeros."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype))
    return torch.device("meta")


def giga_macs(steps: Iterator[object]) -> float:
    with FlopCounterMode(display=False) as counter:
        for _ in steps:
            pass
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("batch_size", [1, 8])
def test_multiplications_per_frame_are_at_the_floor(on_meta: torch.device, batch_size: int) -> None:
    with torch.device("meta"):
        animator = Animator(EDTalk(), on_meta, batch_size=batch_size)
    portrait, num = np.zeros((256, 256, 3), np.uint8), batch_size

    def cost(num_frames: int, **driven: torch.Tensor) -> float:
        return giga_macs(animator.animate(portrait, Tracks(**driven), num_frames))

    mouth, expression = torch.zeros(1, 20), torch.zeros(1, 10)
    predefined = (
        cost(2 * num, mouth=mouth, expression=expression) - cost(num, mouth=mouth, expression=expression)
    ) / num
    assert 15.0 < predefined <= 15.2
    video = _cost_of_codes(animator, portrait, num)
    assert 30.0 < predefined + video <= 30.8
    # what a portrait costs once: encoder 15.6, the living half of the expression blocks 10.4
    assert cost(num, mouth=mouth, expression=expression) - num * predefined == pytest.approx(26.0, abs=0.2)


def _cost_of_codes(animator: Animator, image: np.ndarray, num: int) -> float:
    with FlopCounterMode(display=False) as counter:
        animator.codes([image] * num)
    return counter.get_total_flops() / 2e9 / num


def test_memory_does_not_grow_with_ten_minutes() -> None:
    """Images that were kept would take 42 MiB."""
    animator, num = Animator(make_model(), batch_size=64), 15_000
    tracks, made = random_tracks(num), 0
    frames = animator.animate(noise(1)[0], tracks, num)
    for _ in islice(frames, 500):
        made += 1
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in frames:
        made += 1
    assert made == num
    assert psutil.Process().memory_info().rss - before < 16 << 20


def test_a_video_is_read_a_batch_at_a_time() -> None:
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in count():
            read += 1
            yield noise(1)[0]

    found = list(islice(Animator(make_model(), batch_size=4).redraw(endless(), Tracks()), 6))
    assert (len(found), read) == (6, 8)


# ---- what comes out


@pytest.mark.parametrize("has_expression", [True, False])
def test_a_portrait_driven_by_its_own_codes_is_what_the_model_draws(has_expression: bool) -> None:
    model, frames = make_model(has_expression=has_expression), noise(3)
    with torch.no_grad():
        expected = levels(model(images_of(frames), images_of(frames))[0])
    animator = Animator(model, batch_size=2)
    assert distance(list(animator.redraw(frames, Tracks())), expected) <= 1
    for frame, wanted in zip(frames, expected, strict=True):
        codes = animator.codes([frame])
        for tracks in (Tracks(), Tracks(codes.mouth, codes.pose, codes.expression)):
            assert distance(list(animator.animate(frame, tracks, 3)), [wanted] * 3) <= 1


def test_frames_are_those_of_the_models_own_rendering() -> None:
    model, portrait, tracks = make_model(), noise(1), random_tracks(5)
    assert tracks.mouth is not None
    assert tracks.pose is not None
    with torch.no_grad():
        codes = Codes(tracks.mouth, tracks.pose, tracks.expression)
        expected = levels(model.render(model.encode_identity(images_of(portrait)), codes))
    assert expected.std() > 20
    assert distance(list(Animator(model, batch_size=2).animate(portrait[0], tracks, 5)), expected) <= 1


@pytest.mark.parametrize("is_video", [False, True])
def test_the_size_of_batches_does_not_show(is_video: bool) -> None:
    tracks, frames = random_tracks(11), noise(11)
    found = []
    for batch_size in (1, 8):
        animator = Animator(make_model(), batch_size=batch_size)
        found.append(list(animator.redraw(frames, tracks) if is_video else animator.animate(frames[0], tracks, 11)))
    assert distance(found[0], found[1]) <= 1
    assert np.mean(np.stack(found[0]) != np.stack(found[1])) < 1e-3
    assert distance(found[0][:1], found[0][1:2]) > 20, "frames differ"


def test_one_expression_for_all_frames_is_computed_once_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = random_tracks(6)
    assert tracks.expression is not None
    one, all_the_same = tracks.expression[:1], tracks.expression[:1].repeat(6, 1)
    animator, portrait = Animator(make_model(), batch_size=2), noise(1)[0]
    blocks, calls = animator.model.dec.fineadainresblock, []
    for block in blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    found = list(animator.animate(portrait, Tracks(tracks.mouth, tracks.pose, one), 6))
    assert len(calls) == len(blocks)
    expected = list(animator.animate(portrait, Tracks(tracks.mouth, tracks.pose, all_the_same), 6))
    assert len(calls) == (1 + 3) * len(blocks)
    assert distance(found, expected) <= 1
    assert distance(found, list(animator.animate(portrait, Tracks(tracks.mouth, tracks.pose), 6))) > 2, "it has effect"


@pytest.mark.parametrize(
    ("value", "level"), [(-3.0, 0), (-1.0, 0), (-0.5, 64), (0.0, 128), (0.502, 192), (1.0, 255), (7.0, 255)]
)
def test_values_have_one_fixed_scale(value: float, level: int) -> None:
    """A flat image of every value: -1 is 0, 1 is 255, beyond is cut off, whatever else is in the video."""
    model = make_model(TINY)
    with torch.no_grad():
        for to_rgb in model.dec.to_rgbs:
            for parameter in to_rgb.parameters():
                parameter.zero_()
        model.dec.to_rgbs[-1].bias.fill_(value)
    found = np.stack(list(Animator(model).animate(noise(1, 16)[0], random_tracks(2), 2)))
    assert np.unique(found).tolist() == [level]
    assert (found.shape, found.dtype) == ((2, 16, 16, 3), np.uint8)


def test_codes_are_those_of_the_model_and_images_of_another_size_are_resized() -> None:
    model, frames = make_model(), noise(5)
    animator = Animator(model, batch_size=2)
    with torch.no_grad():
        expected = model.codes(model.encode(images_of(frames)))
    found = animator.codes(iter(frames))
    for part in ("mouth", "pose", "expression"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), atol=1e-4, rtol=1e-4)
    doubled = [frame.repeat(2, 0).repeat(2, 1) for frame in frames]
    flat = [np.full((64, 64, 3), 90, np.uint8), np.full((32, 32, 3), 90, np.uint8)]
    torch.testing.assert_close(*(animator.codes([frame]).mouth for frame in flat), atol=1e-4, rtol=1e-4)
    assert animator.codes(doubled).pose.shape == (5, 6)


def test_half_precision_draws_about_the_same_and_keeps_codes_whole() -> None:
    tracks, portrait = random_tracks(3), noise(1)
    exact, rough = (Animator(make_model(), precision=precision) for precision in ("fp32", "bf16"))
    found = [np.stack(list(animator.animate(portrait[0], tracks, 3))).astype(float) for animator in (exact, rough)]
    assert 0 < np.abs(found[0] - found[1]).mean() < 4
    codes = rough.codes(portrait).mouth
    assert codes.dtype == torch.float32
    assert not torch.equal(codes, codes.bfloat16().float()), "not rounded to 8 bits"


def test_tracks_that_do_not_fit_are_refused() -> None:
    animator, portrait = Animator(make_model()), noise(1)[0]
    with pytest.raises(ConfigError, match="3 mouth codes for 5 frames"):
        next(animator.animate(portrait, Tracks(mouth=torch.zeros(3, 20)), 5))
    plain = Animator(make_model(has_expression=False))
    with pytest.raises(ConfigError, match="no expression bank"):
        next(plain.animate(portrait, Tracks(expression=torch.zeros(1, 10)), 5))
    with pytest.raises(ConfigError, match="no image"):
        animator.codes([])
