"""ElasticSampler: the same global batches for any number of ranks, and exact continuation."""

import itertools

import pytest

from models.training.engine.distributed import Ranks
from models.training.engine.sampler import ElasticSampler

NUM_ITEMS, BATCH = 103, 12


def ranks(count: int, **arguments: int) -> list[ElasticSampler]:
    return [ElasticSampler(NUM_ITEMS, BATCH, Ranks(rank, count), **arguments) for rank in range(count)]


def global_batches(samplers: list[ElasticSampler], num_steps: int) -> list[list[int]]:
    """Trains `num_steps` steps on all ranks; batches of a step joined in the order of ranks."""
    out: list[list[int]] = []
    while len(out) < num_steps:
        epoch = zip(*samplers, strict=True)
        for shares in itertools.islice(epoch, num_steps - len(out)):
            assert len({len(share) for share in shares}) == 1
            out.append(list(itertools.chain(*shares)))
            for sampler in samplers:
                sampler.advance()
    return out


@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_ranks_sees_the_same_batches(count: int) -> None:
    assert global_batches(ranks(count), 20) == global_batches(ranks(1), 20)


def test_resuming_with_other_ranks_is_exact() -> None:
    expected = global_batches(ranks(1), 25)
    got: list[list[int]] = []
    state = None
    for count, num_steps in ((2, 5), (4, 7), (3, 6), (1, 7)):  # crosses ends of epochs, which have 8 steps
        samplers = ranks(count, seed=99 if state else 0)
        for sampler in samplers if state else []:
            sampler.load_state_dict(state or {})
        got += global_batches(samplers, num_steps)
        assert len({str(sampler.state_dict()) for sampler in samplers}) == 1
        state = samplers[0].state_dict()
    assert got == expected


def test_an_epoch_has_every_item_once_but_the_rest() -> None:
    items = list(itertools.chain(*global_batches(ranks(1), 8)))
    assert len(items) == len(set(items)) == 96
    assert set(items) <= set(range(NUM_ITEMS))


def test_epochs_and_seeds_differ() -> None:
    batches = global_batches(ranks(1), 16)
    assert batches[:8] != batches[8:]
    assert batches[:8] != global_batches(ranks(1, seed=1), 8)


def test_reading_ahead_does_not_move_the_place() -> None:
    sampler = ElasticSampler(NUM_ITEMS, BATCH)
    first = list(sampler)
    assert sampler.state_dict()["position"] == 0
    sampler.advance(3)
    assert list(sampler) == first[3:]
    assert len(sampler) == len(first) - 3


def test_another_batch_size_continues_with_what_is_left() -> None:
    one = ElasticSampler(NUM_ITEMS, 12)
    order = list(itertools.chain(*one))
    one.advance(3)
    other = ElasticSampler(NUM_ITEMS, 10)
    other.load_state_dict(one.state_dict())
    assert list(itertools.chain(*other)) == order[36:96]
    other.advance(6)
    assert other.state_dict()["epoch"] == 1


def test_evaluation_sees_all_in_order() -> None:
    sampler = ElasticSampler(10, 4, is_shuffled=False, is_rest_dropped=False)
    assert list(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(sampler) == 3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="divided evenly"):
        ElasticSampler(100, 10, Ranks(0, 3))
    with pytest.raises(ValueError, match="lower the batch size"):
        ElasticSampler(3, 4)
    with pytest.raises(ValueError, match="one rank"):
        ElasticSampler(100, 4, Ranks(0, 2), is_rest_dropped=False)
    with pytest.raises(ValueError, match="num_items 5"):
        ElasticSampler(6, 2).load_state_dict(ElasticSampler(5, 2).state_dict())
