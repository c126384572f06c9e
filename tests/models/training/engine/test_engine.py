"""One step after the other: against torch's own loops and closed forms, and exactly resumable."""

import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from models.data.clip_dataset import ClipDataset
from models.training import stages
from models.training.engine.batches import to_device
from models.training.engine.config import TrainConfig
from models.training.engine.distributed import Ranks
from models.training.engine.engine import Engine
from models.training.engine.errors import NonFinite, TrainingStopped
from models.training.engine.sampler import ElasticSampler
from models.training.evaluate import num_validated, sample_image, validate
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.models.toy import toy_config

pytestmark = pytest.mark.usefixtures("toy_system")


class Numbers(Dataset):
    """Items 0, 1, 2, ... as tensors."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index)])


def line_learner(**changes: Any) -> SimpleNamespace:
    """A line y = w x + b under SGD that is drawn to y = 0; `scale` multiplies its loss."""
    line = nn.Linear(1, 1)
    nn.init.ones_(line.weight)
    nn.init.ones_(line.bias)
    learner = SimpleNamespace(
        modules={"line": line}, optimizers={"line": torch.optim.SGD(line.parameters(), lr=0.01)}, averaged=("line",),
        exported=("line",), train_set=Numbers(8), val_set=Numbers(5), collate=torch.stack, scale=1.0,
        validate=lambda batch, modules: {"x": batch.mean(), "w": modules["line"].weight.mean()},
        sample_image=lambda batch, modules: batch.expand(-1, 3).T[:, :, None] / 10,
    )  # fmt: skip

    def train_step(batch: torch.Tensor, trainer: Any) -> dict[str, torch.Tensor]:
        with trainer.autocast():
            y = trainer.module("line")(batch)
        loss = y.float().square().mean() * learner.scale
        trainer.update("line", loss)
        return {"loss": loss.detach(), "x": batch.mean()}

    learner.train_step = train_step
    for name, value in changes.items():
        setattr(learner, name, value)
    return learner


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"max_steps": 6, "batch_size": 4, **changes})


def run(engine: Engine, num_steps: int | None = None) -> Engine:
    for batch in engine.batches():
        engine.advance(batch)
        if num_steps is not None and engine.step >= num_steps:
            break
    return engine


@pytest.mark.parametrize("grad_clip", [None, 0.5])
def test_steps_are_those_of_a_plain_torch_loop(grad_clip: float | None) -> None:
    learner = line_learner()
    reference = deepcopy(learner.modules["line"])
    engine = run(Engine(learner, config(grad_clip=grad_clip, seed=3)))
    optimizer, place = torch.optim.SGD(reference.parameters(), lr=0.01), ElasticSampler(8, 4, seed=3)
    for _ in range(6):
        loss = reference(torch.tensor(next(iter(place)), dtype=torch.float32)[:, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if grad_clip:
            nn.utils.clip_grad_norm_(reference.parameters(), grad_clip)
        optimizer.step()
        place.advance()
    for ours, theirs in zip(learner.modules["line"].parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (engine.step, engine.sampler.epoch) == (6, 3)


def test_average_follows_the_closed_form_and_copies_buffers() -> None:
    learner = line_learner()
    learner.modules["line"].register_buffer("count", torch.zeros((), dtype=torch.int64))
    engine = Engine(learner, config(ema_decay=0.3))
    expected = learner.modules["line"].weight.item()
    assert engine.averages["line"].weight.item() == expected
    for step, batch in enumerate(engine.batches()):
        learner.modules["line"].count += 1
        engine.advance(batch)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * learner.modules["line"].weight.item()
        assert engine.averages["line"].weight.item() == pytest.approx(expected, rel=1e-5)
        assert engine.averages["line"].count == step + 1
    assert not any(weight.requires_grad for weight in engine.averages["line"].parameters())


def test_exported_tensors_are_the_averaged_ones() -> None:
    engine = run(Engine(line_learner(exported=("line",)), config(ema_decay=0.9)))
    exported = engine.exported()
    assert sorted(exported) == ["line.bias", "line.weight"]
    assert torch.equal(exported["line.weight"], engine.averages["line"].weight)
    assert not torch.equal(exported["line.weight"], engine.learner.modules["line"].weight)


def test_means_are_over_the_steps_since_they_were_last_taken() -> None:
    seen, engine = [], Engine(line_learner(), config())
    for batch in engine.batches():
        seen.append(batch.mean().item())
        engine.advance(batch)
        if engine.step % 3 == 0:
            assert engine.take_means()["x"] == pytest.approx(sum(seen[-3:]) / 3)
    assert engine.take_means() == {}


def test_random_numbers_of_a_step_depend_on_seed_and_step_only() -> None:
    def draws(seed: int, first: int) -> list[tuple[float, float]]:
        drawn, learner = [], line_learner()
        learner.train_step = lambda batch, trainer: (
            drawn.append((torch.rand((), generator=trainer.generator).item(), torch.rand(()).item())) or {}
        )
        engine = Engine(learner, config(seed=seed))
        engine.step = first
        run(engine)
        return drawn

    assert draws(0, 0)[2:] == draws(0, 2)
    assert len(set(draws(0, 0))) == 6
    assert draws(0, 0) != draws(1, 0)


@pytest.mark.parametrize("workers", [(0, 0), (2, 1)])
def test_resumed_training_equals_an_unbroken_one_bit_for_bit(small_store: Path, workers: tuple[int, int]) -> None:
    """Two optimisers, noise, dropout, batch norm, random frames; with other numbers of workers after the break."""
    snapshot, toy = Snapshot.open(small_store), stages.find("toy", "gan")

    def engine(num_workers: int) -> Engine:
        torch.manual_seed(5)
        settings = toy_config(train={"max_steps": 11, "num_workers": num_workers})
        return Engine(toy.build(settings, snapshot, {}), settings.train)

    unbroken = run(engine(0))
    tensors, plain = run(engine(workers[0]), 5).state()
    stored = {name: value.clone() for name, value in tensors.items()}
    resumed = engine(workers[1])
    with torch.no_grad():
        for weight in resumed.learner.modules["generator"].parameters():
            weight.zero_()
    resumed.restore(stored, json.loads(json.dumps(plain)))
    run(resumed)
    assert unbroken.learner.seen[5:] == resumed.learner.seen  # type: ignore[attr-defined]
    ours, theirs = resumed.state(), unbroken.state()
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    for name, value in ours[0].items():
        assert torch.equal(value, theirs[0][name]), name
    names = {name.split("/")[0] for name in ours[0]}
    assert names == {"module", "average", "optimizer"}
    assert plain["sampler"]["epoch"] == 5
    assert {"distance", "critic"} == plain["sums"].keys()


def test_a_finished_learner_ends_training_also_when_it_is_resumed(small_store: Path) -> None:
    snapshot, toy, settings = Snapshot.open(small_store), stages.find("toy", "gan"), toy_config(stop_after=5)

    def engine() -> Engine:
        torch.manual_seed(5)
        return Engine(toy.build(settings, snapshot, {}), settings.train)

    unbroken, resumed, ended = run(engine()), engine(), engine()
    assert (unbroken.step, unbroken.is_done) == (5, True)
    tensors, plain = run(engine(), 3).state()
    resumed.restore({name: value.clone() for name, value in tensors.items()}, plain)
    assert not resumed.is_done
    run(resumed)
    ours, theirs = resumed.state(), unbroken.state()
    assert ours[1] == theirs[1]
    assert all(torch.equal(value, theirs[0][name]) for name, value in ours[0].items())
    ended.restore(*ours)
    assert (ended.is_done, list(ended.batches())) == (True, [])


def test_every_epoch_has_its_own_order_and_its_own_frames(small_store: Path) -> None:
    settings = toy_config(train={"max_steps": 4, "num_workers": 1})
    learner = stages.find("toy", "gan").build(settings, Snapshot.open(small_store), {})
    run(Engine(learner, settings.train))
    clips = ClipDataset(learner.train_set.snapshot, learner.train_set.options)  # type: ignore[attr-defined]
    for epoch, (step, indices, frames) in enumerate(learner.seen):  # type: ignore[attr-defined]
        sampler = ElasticSampler(6, 4, seed=settings.train.seed)
        sampler.epoch = epoch
        clips.set_epoch(epoch)
        assert (step, indices) == (epoch, next(iter(sampler)))
        assert frames == [clips[index]["frame"].item() for index in indices]


def test_state_of_other_networks_or_optimisers_is_refused() -> None:
    tensors, plain = run(Engine(line_learner(), config())).state()
    wide = nn.Linear(2, 1)
    other = line_learner(modules={"line": wide}, optimizers={"line": torch.optim.SGD(wide.parameters(), lr=0.1)})
    with pytest.raises(ConfigError, match="does not fit 'line'"):
        Engine(other, config()).restore(tensors, plain)
    fewer = line_learner()
    fewer.optimizers = {"line": torch.optim.SGD([fewer.modules["line"].weight], lr=0.1)}
    with pytest.raises(ConfigError, match="optimiser 'line'"):
        Engine(fewer, config()).restore(tensors, plain)


def test_state_of_other_data_keeps_weights_and_begins_an_epoch() -> None:
    tensors, plain = run(Engine(line_learner(), config()), 5).state()
    engine = Engine(line_learner(train_set=Numbers(20)), config(max_steps=9))
    with pytest.raises(ValueError, match="num_items 8, now 20"):
        engine.restore(tensors, plain)
    engine.restore(tensors, plain, is_other_data=True)
    assert (engine.step, engine.sampler.epoch, engine.sampler.position) == (5, 3, 0)
    assert torch.equal(engine.learner.modules["line"].weight, tensors["module/line/weight"])


@pytest.mark.parametrize("fault", ["nan_loss_at", "nan_gradient_at"])
def test_nan_stops_before_any_weight_changes(small_store: Path, fault: str) -> None:
    settings = toy_config(**{fault: 3})
    engine = Engine(stages.find("toy", "gan").build(settings, Snapshot.open(small_store), {}), settings.train)
    run(engine, 3)
    before = {name: value.clone() for name, value in engine.state()[0].items() if "num_calls" not in name}
    kind = "loss" if fault == "nan_loss_at" else "gradient"
    with pytest.raises(NonFinite, match=f"step 4: the {kind} of 'generator' is nan"):
        engine.advance(next(engine.batches()))
    after = engine.state()[0]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert all(torch.equal(value, after[name]) for name, value in before.items() if not name.endswith(buffers))
    assert engine.step == 3


def test_bf16_computes_in_bf16_and_keeps_float32_weights() -> None:
    types, learner = [], line_learner()
    learner.modules["line"].register_forward_hook(lambda module, args, out: types.append(out.dtype))
    first = learner.modules["line"].weight.detach().clone()
    engine = run(Engine(learner, config(precision="bf16", max_steps=40)))
    assert set(types) == {torch.bfloat16}
    assert {weight.dtype for weight in learner.modules["line"].parameters()} == {torch.float32}
    assert learner.modules["line"].weight.abs() < first.abs() / 2
    assert engine.state()[1]["scalers"] == {"line": {}}


def test_fp16_skips_an_overflow_and_scales_less_and_the_scale_is_in_the_state() -> None:
    learner = line_learner()
    engine = Engine(learner, config(precision="fp16", max_steps=40))
    assert engine.state()[1]["scalers"]["line"]["scale"] == 65536
    first = learner.modules["line"].weight.detach().clone()
    learner.scale = 1e36  # times 65536 more than float32 can hold; the loss itself is finite
    batches = engine.batches()
    engine.advance(next(batches))
    assert torch.equal(learner.modules["line"].weight, first)
    assert engine.state()[1]["scalers"]["line"]["scale"] == 32768
    resumed = Engine(line_learner(), config(precision="fp16", max_steps=40))
    resumed.restore(*engine.state())
    assert resumed.state()[1]["scalers"]["line"]["scale"] == 32768
    run(resumed)
    assert resumed.learner.modules["line"].weight.abs() < first.abs() / 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_sees_gradients_without_the_scale(precision: str) -> None:
    learner = line_learner(scale=1e-3)
    line = learner.modules["line"]
    before = torch.cat([line.weight.detach().flatten(), line.bias.detach()])
    run(Engine(learner, config(precision=precision, grad_clip=0.01)), 1)
    after = torch.cat([line.weight.detach().flatten(), line.bias.detach()])
    assert (after - before).norm().item() == pytest.approx(0.01 * 0.01, rel=1e-2)  # the rate times the limit


def test_a_nan_loss_is_no_overflow() -> None:
    learner = line_learner(scale=float("nan"))
    with pytest.raises(NonFinite, match="the loss of 'line' is nan"):
        run(Engine(learner, config(precision="fp16")))


def test_validation_is_the_mean_over_items_of_the_averaged_modules() -> None:
    learner = line_learner()
    learner.modules["dropout"] = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5).eval())
    engine = run(Engine(learner, config(ema_decay=0.9)))
    assert validate(engine) == {"x": 2.0, "w": pytest.approx(engine.averages["line"].weight.item())}  # 0..4, as 4 + 1
    assert [part.training for part in learner.modules["dropout"]] == [True, False]
    assert num_validated(engine) == 5
    assert validate(Engine(line_learner(val_set=None), config())) == {}


def test_a_limited_validation_takes_the_same_items_each_time() -> None:
    engine = Engine(line_learner(val_set=Numbers(100)), config(val_batches=2))
    first = validate(engine)["x"]
    torch.rand(3)
    assert validate(engine)["x"] == first
    assert num_validated(engine) == 8
    chosen = list(ElasticSampler(100, 4, seed=0))[:2]
    assert first == pytest.approx(sum(sum(batch) for batch in chosen) / 8)


def test_a_sample_image_shows_the_first_items_of_validation_else_of_training() -> None:
    assert torch.equal(sample_image(Engine(line_learner(), config()))[0, :, 0], torch.arange(4) / 10)  # type: ignore[index]
    alone = line_learner(val_set=None, train_set=Numbers(3), sample_image=lambda batch, modules: batch)
    assert torch.equal(sample_image(Engine(alone, config(batch_size=3))), torch.tensor([[0.0], [1.0], [2.0]]))  # type: ignore[arg-type]


def test_ranks_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(line_learner(), config())
    engine.require_equal_ranks()
    monkeypatch.setattr(Ranks, "largest", lambda self, values: [value + 1e-7 for value in values])
    with pytest.raises(TrainingStopped, match=r"'line' are not the same on all ranks.*trainer\.module\('line'\)"):
        engine.require_equal_ranks()


def test_tensors_of_nested_batches_move_and_the_rest_stays() -> None:
    batch = {"a": torch.zeros(2), "b": {"c": [torch.ones(1), "text"]}, "name": ["x"], "n": 3}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"].device.type == moved["b"]["c"][0].device.type == "meta"
    assert (moved["b"]["c"][1], moved["name"], moved["n"]) == ("text", ["x"], 3)
