"""What every stage of every system must be, whatever it trains: run over the files that are there.

Networks that draw pictures are made tiny; all else is the 'smoke' preset.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from models import stages
from models.edtalk.shape import Shape
from models.engine import Engine
from models.train_config import StageConfig
from models.training.evaluate import picture, validate
from storage.snapshot import Snapshot
from tests.rich_store import build_rich_store

SYSTEMS = tuple(system for system in ("edtalk", "emogene", "realtalk") if system in stages.systems())
CASES = [(system, stage) for system in SYSTEMS for stage in stages.discover(system)]
SHAPE = Shape(size_px=32, width=1 / 32, latent_dim=48)

each_stage = pytest.mark.parametrize(("system", "name"), CASES, ids=[f"{system}-{name}" for system, name in CASES])


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("contract") / "store")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_config(system: str, name: str) -> StageConfig:
    """'smoke' with two items a step, one batch of validation and tiny pictures."""
    smoke = stages.preset(system, name, "smoke")
    train = smoke.train.model_copy(update={"batch_size": 2, "val_batches": 1, "max_steps": 3})
    pictures = {"shape": SHAPE} if "shape" in type(smoke).model_fields else {}
    return smoke.model_copy(update={"train": train} | pictures)


class Recorder(Engine):
    """Keeps the loss of the last step, without the discriminator's."""

    objective = 0.0

    def update(self, optimizer: str, loss: Tensor) -> None:
        if optimizer != "dis":
            self.objective = float(loss.detach())
        super().update(optimizer, loss)


def make_engine(system: str, name: str, snapshot: Snapshot) -> Recorder:
    """An engine at its first step; the parents have done one."""
    stage, config = stages.find(system, name), small_config(system, name)
    parents = {parent: parent_state(system, parent, snapshot) for parent in stage.PARENTS}
    torch.manual_seed(config.train.seed)
    return Recorder(stage.build(config, snapshot, parents), config.train)


@cache
def parent_state(system: str, name: str, snapshot: Snapshot) -> Mapping[str, Tensor]:
    engine = make_engine(system, name, snapshot)
    engine.advance(next(engine.batches()))
    return {key: value.clone() for key, value in engine.exported().items()}


def test_there_are_stages_of_every_system() -> None:
    assert {system for system, _ in CASES} == {"edtalk", "emogene", "realtalk"}


@each_stage
def test_the_module_offers_what_a_stage_has_to(system: str, name: str) -> None:
    stage = stages.find(system, name)
    first_line = (stage.__doc__ or "").partition("\n")[0]
    assert first_line.rstrip().endswith((".", ":")) or len(first_line) > 20, "the model card says it"
    assert isinstance(stage.VERSION, int)
    assert set(stage.PARENTS) <= set(stages.discover(system))
    assert isinstance(stage.FEATURES, tuple)
    assert {"smoke", "paper"} <= set(stage.PRESETS)
    for config in stage.PRESETS.values():
        assert type(config) is stage.Config
        assert issubclass(stage.Config, StageConfig)
        assert stage.Config.model_validate_json(config.model_dump_json()) == config
    assert stage.PRESETS["smoke"].weights() == (), "the smoke preset needs no file"


@each_stage
def test_it_learns_validates_and_draws_on_a_small_store(system: str, name: str, snapshot: Snapshot) -> None:
    engine = make_engine(system, name, snapshot)
    learner: Any = engine.learner
    assert set(learner.exported) <= set(learner.modules)
    assert set(learner.averaged) <= set(learner.modules)
    before = {key: value.clone() for key, value in engine.state()[0].items() if key.startswith("module/")}
    engine.advance(next(engine.batches()))
    assert_finite(engine.take_means())
    after = engine.state()[0]
    assert any(not torch.equal(value, after[key]) for key, value in before.items()), "nothing was learned"
    if learner.val_set is not None:
        assert_finite(validate(engine))
    drawn = picture(engine)
    if drawn is not None:
        assert drawn.shape[0] == 3
        assert drawn.dtype == torch.float32
        assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


@each_stage
def test_the_loss_falls_on_a_fixed_batch(system: str, name: str, snapshot: Snapshot) -> None:
    config = small_config(system, name)
    images = getattr(config, "losses", None) or getattr(config, "images", None)
    losses = objectives(make_engine(system, name, snapshot), images.gan_weight if images else 0.0)
    assert has_fallen(losses), losses


def test_at_a_learning_rate_of_zero_it_does_not(snapshot: Snapshot) -> None:
    engine = make_engine("edtalk", "audio2expression", snapshot)
    for optimizer in engine.learner.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    losses = objectives(engine)
    assert len(set(losses)) == 1, "the random numbers of the steps differ"
    assert not has_fallen(losses)


@each_stage
def test_taken_up_from_its_state_it_ends_as_if_it_had_never_stopped(system: str, name: str, snapshot: Snapshot) -> None:
    first, second = make_engine(system, name, snapshot), make_engine(system, name, snapshot)
    batches = first.batches()
    first.advance(next(batches))
    tensors, plain = first.state()
    # what the first one does next must not reach the second one through shared memory
    second.restore({key: value.clone() for key, value in tensors.items()}, plain)
    assert_equal(second.state()[0], tensors)
    first.advance(next(batches))
    second.advance(next(second.batches()))
    assert_equal(second.state()[0], first.state()[0])


def objectives(engine: Recorder, gan_weight: float = 0.0, num_steps: int = 48) -> list[float]:
    """The loss of each of some steps on one batch, without what the discriminator thinks of it."""
    batch, losses = next(engine.batches()), []
    for _ in range(num_steps):
        # the same random numbers in each step: nothing but learning changes the loss
        engine.generator.manual_seed(0)
        torch.manual_seed(0)
        scalars = engine.learner.train_step(batch, engine)
        engine.step += 1
        losses.append(engine.objective - gan_weight * float(scalars.get("gan", 0.0)))
    return losses


def has_fallen(losses: Sequence[float]) -> bool:
    """Whether all of the last quarter are below all of the first, and their mean by at least a hundredth."""
    part = len(losses) // 4
    first, last = losses[:part], losses[-part:]
    return max(last) < min(first) and (sum(first) - sum(last)) / abs(sum(first)) > 0.01


def assert_finite(figures: Mapping[str, float]) -> None:
    assert figures
    wrong = {name: value for name, value in figures.items() if not torch.isfinite(torch.tensor(value))}
    assert not wrong


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [key for key, value in expected.items() if not torch.equal(value, found[key])]
