"""Engine: steps of a learner in one process or several, with averaged weights and a state that can be saved.

The learner (learner.py) defines the modules and losses. The engine manages devices, precision, gradients of several
processes, averaged weights and the place in the data; runs/loop.py logs, validates and saves. A training resumed from a
state equals one that was never interrupted, bit for bit on the CPU: no random state outlives a step, because every step
seeds the generators from (seed, step, rank).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from models.training.engine.batches import batch_loader, to_device
from models.training.engine.config import TrainConfig
from models.training.engine.distributed import Ranks
from models.training.engine.errors import NonFinite, TrainingStopped
from models.training.engine.learner import Batch, Learner, is_finished
from models.training.engine.sampler import ElasticSampler, derived_seed
from models.training.engine.state import pack_modules, pack_optimizer, restore_modules, restore_optimizer

# A scaler that has gone so low has skipped a step for infinite gradients some forty times in a row.
_LOWEST_SCALE = 2.0**-24
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """A learner in training: the learner.Trainer that its steps see, and all state that a checkpoint holds.

        engine = Engine(learner, config)
        for batch in engine.batches():
            engine.advance(batch)

    Args:
        learner: is moved to the device.
        config: of the training.
        ranks: this process among those of the training.
        device: to train on.

    Raises:
        ValueError: the batch cannot be divided among the ranks, or the data do not fill one.

    Attributes:
        step: steps done.
        averages: the averaged copies by name.
        sampler: the place in the data.
    """

    def __init__(
        self, learner: Learner, config: TrainConfig, ranks: Ranks | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.learner, self.config, self.ranks, self.device = learner, config, ranks or Ranks(), torch.device(device)
        num_items = len(learner.train_set)  # pyright: ignore[reportArgumentType]
        self.sampler = ElasticSampler(num_items, config.batch_size, self.ranks, config.seed)
        self.step, self.generator = 0, torch.Generator()
        for module in learner.modules.values():
            module.to(self.device)
        self._wrapped = {name: self.ranks.wrap(module, self.device) for name, module in learner.modules.items()}
        self.averages = {name: averaged_copy(learner.modules[name]) for name in learner.averaged}
        has_scaler = config.precision == "fp16"
        self._scalers = {name: torch.GradScaler(self.device.type, enabled=has_scaler) for name in learner.optimizers}
        self._sums: dict[str, Tensor] = {}
        self._num_summed, self._is_stopped = 0, False

    # ---- what a learner's step may use: see models.training.engine.learner.Trainer

    def autocast(self) -> AbstractContextManager[Any]:
        """The configured precision."""
        dtype = _DTYPES[self.config.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def module(self, name: str) -> Callable[..., Any]:
        """A module to be called."""
        return self._wrapped[name]

    def update(self, optimizer: str, loss: Tensor) -> None:
        """One optimiser step on a scalar loss."""
        chosen, scaler = self.learner.optimizers[optimizer], self._scalers[optimizer]
        weights = [weight for group in chosen.param_groups for weight in group["params"]]
        self._require_finite(f"the loss of {optimizer!r}", loss)
        chosen.zero_grad(set_to_none=True)
        scaler.scale(self._anchored(loss, weights)).backward()
        scaler.unscale_(chosen)
        norm = nn.utils.clip_grad_norm_(weights, self.config.grad_clip or torch.inf)
        if not scaler.is_enabled():  # a scaler skips steps with infinite gradients and lowers its scale
            self._require_finite(f"the gradient of {optimizer!r}", norm)
        scaler.step(chosen)
        scaler.update()
        if scaler.is_enabled() and scaler.get_scale() < _LOWEST_SCALE:
            raise NonFinite(f"step {self.step + 1}: the gradient of {optimizer!r} is never finite in fp16")

    # ---- the loop

    @property
    def is_done(self) -> bool:
        """Whether no step is left: max_steps are done, or the learner is finished."""
        return self._is_stopped or self.step >= self.config.max_steps

    @property
    def last_step(self) -> int:
        """The step that training ends at, as far as is known."""
        return self.step if self.is_done else self.config.max_steps

    def batches(self) -> Iterator[Batch]:
        """This rank's share of the batches from the current place on, epoch after epoch, until `is_done`."""
        learner, num_workers = self.learner, self.config.num_workers
        loader = batch_loader(learner.train_set, self.sampler, learner.collate, num_workers, self.device)
        while not self.is_done:
            if hasattr(learner.train_set, "set_epoch"):
                learner.train_set.set_epoch(self.sampler.epoch)  # pyright: ignore[reportAttributeAccessIssue]
            for batch in loader:
                yield to_device(batch, self.device)
                if self.is_done:
                    return

    def advance(self, batch: Batch) -> None:
        """One step.

        Raises:
            NonFinite: see `update`; the step is not counted.
        """
        seed = derived_seed(self.config.seed, self.step, self.ranks.rank)
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)
        scalars = self.learner.train_step(batch, self)
        for name, average in self.averages.items():
            move_average(average, self.learner.modules[name], self.config.ema_decay, self.step)
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().double()
        self._num_summed += 1
        self.step += 1
        self.sampler.advance()
        self._note_finish()

    def take_means(self) -> dict[str, float]:
        """Means of the steps' scalars since the last call, over all ranks, each of which has to call."""
        sums, count = self._sums_of_ranks(), self._num_summed
        self._sums, self._num_summed = {}, 0
        return {name: total / count for name, total in sums.items()}

    def require_equal_ranks(self) -> None:
        """Checks that all ranks have the same weights; each has to call.

        Raises:
            TrainingStopped: they do not.
        """
        for name, module in self.learner.modules.items():
            total = sum(float(weight.detach().double().sum()) for weight in module.parameters())
            highest, lowest = self.ranks.largest([total, -total])
            if highest != -lowest:
                fault = f"step {self.step}: the weights of {name!r} are not the same on all ranks"
                raise TrainingStopped(f"{fault}; train_step must call trainer.module({name!r}), not the raw module")

    def exported(self) -> dict[str, Tensor]:
        """Tensors of the 'model' file: `<module>.<key>`, averaged where there is an average."""
        chosen = {name: self.averages.get(name, self.learner.modules[name]) for name in self.learner.exported}
        return {f"{name}.{key}": value for name, part in chosen.items() for key, value in part.state_dict().items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that resuming needs, the same on all ranks, each of which has to call: tensors, JSON values."""
        tensors = pack_modules("module", self.learner.modules) | pack_modules("average", self.averages)
        groups: dict[str, Any] = {}
        for name, optimizer in self.learner.optimizers.items():
            moments, groups[name] = pack_optimizer(name, optimizer)
            tensors |= moments
        plain = {
            "step": self.step,
            "sampler": self.sampler.state_dict(),
            "optimizers": groups,
            "scalers": {name: scaler.state_dict() for name, scaler in self._scalers.items()},
            "sums": self._sums_of_ranks(),
            "num_summed": self._num_summed,
        }
        return tensors, plain

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], is_other_data: bool = False) -> None:
        """Goes on where `state` was taken, with any number of ranks and workers.

        Args:
            tensors, plain: from `state`.
            is_other_data: the state was taken on other data: the next epoch of these begins.

        Raises:
            ConfigError: the learner has other modules or optimisers.
        """
        restore_modules("module", self.learner.modules, tensors)
        restore_modules("average", self.averages, tensors)
        for name, optimizer in self.learner.optimizers.items():
            restore_optimizer(name, optimizer, tensors, plain["optimizers"].get(name, {}))
            if plain["scalers"].get(name):
                self._scalers[name].load_state_dict(plain["scalers"][name])
        self.step = plain["step"]
        self._note_finish()
        if is_other_data:
            self.sampler.epoch = plain["sampler"]["epoch"] + 1
            return
        self.sampler.load_state_dict(plain["sampler"])
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in plain["sums"].items()}
        self._num_summed = plain["num_summed"]

    def _note_finish(self) -> None:
        if hasattr(self.learner, "is_finished"):
            # the same value on all ranks: a rank that went on alone would wait for the others for ever
            self._is_stopped = bool(self.ranks.first(is_finished(self.learner)))

    def _sums_of_ranks(self) -> dict[str, float]:
        """Sums of the steps' scalars since they were last taken, mean over the ranks."""
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name].cpu() for name in names]) if names else torch.zeros(0)
        return dict(zip(names, self.ranks.mean(sums.double()).tolist(), strict=True))

    def _anchored(self, loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The loss, made to depend on every weight: ranks wait for each other's gradient of each."""
        if self.ranks.num == 1:
            return loss
        return loss + sum(0 * weight.flatten()[0] for weight in weights if weight.requires_grad and weight.numel())

    def _require_finite(self, what: str, value: Tensor) -> None:
        is_bad = not torch.isfinite(value.detach()).all()
        if self.ranks.largest([float(is_bad)])[0]:
            raise NonFinite(f"step {self.step + 1}: {what} is {float(value.detach().mean())}")


def averaged_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients, equal to the module so far."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """average = d * average + (1 - d) * module for weights, with d = min(decay, (1 + step) / (10 + step)).

    Buffers are copied: running statistics are averages already, others must not be mixed.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for mean, weight in zip(average.parameters(), module.parameters(), strict=True):
        mean.lerp_(weight.to(mean.dtype), share)
    for mean, buffer in zip(average.buffers(), module.buffers(), strict=True):
        mean.copy_(buffer)
