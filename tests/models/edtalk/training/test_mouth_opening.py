"""The stretch of the mouth code, on drawings whose mouths open a known part of what they should."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.generator import Source
from models.edtalk.networks.navigation import Codes
from models.edtalk.training.mouth_opening import MAX_GAIN, NUM_PAIRS, open_as_seen
from tests.models.edtalk.stages.tiny import SHAPE
from tests.synthetic_store import build_store

SIZE_PX = 8
MOUTH = torch.zeros(1, SIZE_PX, SIZE_PX)
MOUTH[:, 5:7, 2:6] = 1


class Openings(SwapPairs):
    """Pairs of grey faces whose mouths are as bright as they are open; what is around them flickers by a lot."""

    def __init__(self, spread: float = 1.0) -> None:  # pyright: ignore[reportMissingSuperCall]
        random = torch.Generator().manual_seed(0)
        self._openings = 0.3 + spread * torch.randn(NUM_PAIRS, 2, generator=random)
        self._flicker = 5 * torch.randn(NUM_PAIRS, 3, 2, 3, SIZE_PX, SIZE_PX, generator=random)

    def first(self, num_pairs: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        for number in range(num_pairs):
            opening = self._openings[number]
            flicker = self._flicker[number] * (1 - MOUTH)
            pictures = [one[:, None, None, None] * MOUTH for one in (opening, opening, opening.flip(0))]
            item = dict(zip(("source", "target", "swapped"), torch.stack(pictures) + flicker, strict=True))
            yield number, item | {"mouth": MOUTH.expand(2, 1, SIZE_PX, SIZE_PX)}


class Timid(EDTalk):
    """Draws mouths that open `share` as far as the faces that it is driven with."""

    def __init__(self, share: float) -> None:
        torch.manual_seed(0)
        super().__init__(SHAPE, has_expression=False)
        self._share = share
        rest, one = (self.lip_fc(self.encode(value * MOUTH.expand(1, 3, -1, -1))) for value in (0.0, 1.0))
        self._per_opening = (one - rest).detach()

    def encode(self, images: Tensor) -> Tensor:
        opening = (images * MOUTH).mean((1, 2, 3)) / MOUTH.mean()
        return torch.nn.functional.pad(opening[:, None], (0, self.shape.latent_dim - 1))

    def codes(self, latent: Tensor) -> Codes:
        return Codes(self.lip_fc(latent), torch.zeros(len(latent), self.shape.num_pose))

    def encode_source(self, images: Tensor) -> Source:
        return cast(Source, images)

    def render(self, source: Any, codes: Codes, directions: Tensor | None = None) -> Tensor:
        opening = codes.mouth @ self._per_opening.T / self._per_opening.square().sum()
        return source * (1 - MOUTH) + self._share * opening[:, :, None, None] * MOUTH


@torch.no_grad()
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_mouths_open_as_far_as_they_are(share: float) -> None:
    model, openings = Timid(share), torch.linspace(-1, 2, 7)
    latents = model.encode(openings[:, None, None, None] * MOUTH.expand(7, 3, -1, -1))
    before = model.codes(latents).mouth
    gain = open_as_seen(model, Openings())
    assert gain == pytest.approx(1 / share, abs=0.06)
    after = model.codes(latents).mouth
    torch.testing.assert_close(after - after[0], gain * (before - before[0]), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_the_mean_of_the_codes_stays() -> None:
    model, pairs = Timid(0.4), Openings()
    faces = torch.cat([item["target"] for _, item in pairs.first(NUM_PAIRS)])
    before = model.codes(model.encode(faces)).mouth
    open_as_seen(model, pairs)
    after = model.codes(model.encode(faces)).mouth
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=1e-3, atol=1e-4)
    assert (after - before).abs().max() > 0.1


@pytest.mark.parametrize(("share", "spread"), [(1.5, 1.0), (1.0, 0.0)])
def test_mouths_that_open_far_enough_are_left_alone(share: float, spread: float) -> None:
    model, pairs = Timid(share), Openings(spread)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert open_as_seen(model, pairs) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_mouth_that_hardly_moves_is_stretched_to_the_limit() -> None:
    assert open_as_seen(Timid(0.01), Openings()) == MAX_GAIN


def test_pairs_are_left_as_they_were(tmp_path: Any) -> None:
    pairs = SwapPairs(build_store(tmp_path / "store", 4, 2, (12,)), "train", 32, seed=0)
    before = pairs.choose(1)
    open_as_seen(EDTalk(SHAPE, has_expression=False), pairs)
    assert pairs.choose(1) == before
