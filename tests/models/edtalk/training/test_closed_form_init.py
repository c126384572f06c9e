"""The start of stage 1 in closed form, against latent vectors whose mouths are known and against the stage before."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import Lia
from models.edtalk.training.closed_form_init import PairLatents, mouth_axes, start_apart
from models.edtalk.weights.published_checkpoints import NOT_IN_LIA, fit_state, lia_to_edtalk
from tests.models.edtalk.stages.tiny import SHAPE
from tests.synthetic_store import build_store

DIM, NUM_PAIRS = 40, 600


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> SwapPairs:
    return SwapPairs(build_store(tmp_path_factory.mktemp("start") / "store", 4, 2, (12,)), "train", 32, seed=0)


def drawn_latents(rng: np.random.Generator) -> tuple[PairLatents, NDArray[np.float64], NDArray[np.float64]]:
    """Vectors of two people made of a head (large), a mouth (small) and noise; their mouths [2 N, 2] and heads."""
    mixing = rng.normal(size=(DIM, 8))
    heads, mouths = rng.normal(size=(2 * NUM_PAIRS, 6)) * 10, rng.normal(size=(2 * NUM_PAIRS, 2)) * (1.0, 0.5)
    clip = rng.integers(2, size=2 * NUM_PAIRS)
    people = rng.normal(size=(2, DIM)) * 30

    def vectors(shown: NDArray[np.float64]) -> NDArray[np.float64]:
        noise = rng.normal(size=(len(shown), DIM)) * 0.05
        return people[clip] + np.concatenate([heads, shown], axis=1) @ mixing.T + noise

    others = mouths.reshape(-1, 2, 2)[:, ::-1].reshape(-1, 2)
    return PairLatents(vectors(mouths), vectors(others), clip), mouths, heads


def test_the_axes_tell_mouths_whosever_they_are_and_however_heads_are_held() -> None:
    faces, mouths, heads = drawn_latents(np.random.default_rng(0))
    told = faces.target @ mouth_axes(faces, 2)
    for clip in (0, 1):
        own, of_clip = told[faces.clip == clip], faces.clip == clip
        own = own - own.mean(0)
        assert own.std(0) == pytest.approx([1, 1], abs=0.15)
        for truth, is_told in ((mouths[of_clip], True), (heads[of_clip], False)):
            fitted = own @ np.linalg.lstsq(own, truth - truth.mean(0), rcond=None)[0]
            explained = 1 - np.square(fitted - truth + truth.mean(0)).sum(0) / np.square(truth - truth.mean(0)).sum(0)
            assert (explained > 0.98).all() if is_told else (explained < 0.05).all()


def test_the_best_axis_comes_first() -> None:
    faces, mouths, _ = drawn_latents(np.random.default_rng(1))
    first = faces.target @ mouth_axes(faces, 1)[:, 0]
    both = faces.target @ mouth_axes(faces, 2)
    assert abs(np.corrcoef(first, both[:, 0])[0, 1]) == pytest.approx(1)
    within = [first[faces.clip == clip] for clip in (0, 1)]
    assert all(abs(np.corrcoef(own, mouths[faces.clip == clip, 0])[0, 1]) > 0.95 for clip, own in enumerate(within))


def lia_of_rank(rank: int) -> Lia:
    """A LIA whose motion has that many dimensions."""
    torch.manual_seed(3)
    parent = Lia(SHAPE)
    head = parent.enc.fc[4]
    with torch.no_grad():
        head.weight.copy_(torch.randn(20, rank) @ torch.randn(rank, head.weight.shape[1]))
        head.bias.copy_(torch.randn(20))
    return parent


def started(parent: Lia, pairs: SwapPairs, num_pairs: int = 100) -> EDTalk:
    torch.manual_seed(4)
    model = EDTalk(SHAPE, has_expression=False)
    fit_state(model, lia_to_edtalk(parent.state_dict()), "parent", NOT_IN_LIA)
    start_apart(model, parent.state_dict(), pairs, num_pairs)
    return model


@torch.no_grad()
def test_faces_move_as_with_the_parent_but_for_what_is_the_mouths(pairs: SwapPairs) -> None:
    """Mouth (2 directions) and pose (6) hold all motion of a LIA of rank 6. Only along the mouth's it may be less."""
    parent = lia_of_rank(6)
    model, images = started(parent, pairs), pairs[3]["target"]
    codes, directions = model.codes(model.encode(images)), model.directions()
    found = model.motion(codes, directions)[0]
    expected = parent.enc.fc(parent.enc(images)[0]) @ parent.directions().T
    mouth = directions[:, :2]
    rest = (found - expected) - (found - expected) @ mouth @ mouth.T
    assert rest.abs().max() < 2e-3 * expected.std()


@torch.no_grad()
def test_the_mouth_code_moves_a_face_as_another_mouth_does(pairs: SwapPairs) -> None:
    """Least squares over the very pairs: no other multiple of what the code does fits better what the parent does."""
    parent = lia_of_rank(6)
    model = started(parent, pairs)
    told, moved = [], []
    for epoch in range(12):
        pairs.set_epoch(epoch)
        for index in range(len(pairs)):
            item = pairs[index]
            latents = [model.encode(item[name]) for name in ("target", "swapped")]
            one, other = (model.codes(latent).mouth @ model.directions()[:, :20].T for latent in latents)
            told.append(one - other)
            moved.append((parent.enc.fc(latents[0]) - parent.enc.fc(latents[1])) @ parent.directions().T)
    pairs.set_epoch(0)
    told, moved = (torch.cat(rows)[:200].double() for rows in (told, moved))
    told, moved = told - told.mean(0), moved - moved.mean(0)
    assert torch.linalg.matrix_rank(told, rtol=1e-3) == 2
    assert ((told * moved).sum() / told.square().sum()).item() == pytest.approx(1, abs=0.05)


def test_it_depends_on_the_pairs_alone_and_leaves_them_as_they_were(pairs: SwapPairs) -> None:
    parent, before = lia_of_rank(6), pairs.choose(1)
    first, second = (started(parent, pairs, 30).state_dict() for _ in range(2))
    assert pairs.choose(1) == before
    assert all(torch.equal(value, second[key]) for key, value in first.items())
