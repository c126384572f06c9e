"""A GAN of a few weights that learns where the face is: two optimisers, a frozen module, noise and dropout."""

import os
from dataclasses import dataclass, field

import torch
from torch import nn

from models.data.clip_dataset import ClipDataset, ClipOptions
from models.training.engine.config import StageConfig, TrainConfig

VERSION = 1
PARENTS = ()
FEATURES = ("landmarks",)


class Config(StageConfig):
    """Settings of the toy; some let it fail at a step, `stop_after` ends training before max_steps."""

    train: TrainConfig = TrainConfig(
        max_steps=12, batch_size=4, log_every=3, val_every=6, image_every=6, save_every=4, ema_decay=0.9
    )
    has_noise: bool = True
    width: int = 8
    needs: tuple[str, ...] = ()
    nan_loss_at: int | None = None
    nan_gradient_at: int | None = None
    has_validation: bool = True
    stop_after: int | None = None

    def weights(self):
        return self.needs


PRESETS = {"smoke": Config(), "paper": Config(train=TrainConfig(max_steps=1000, batch_size=4))}


def build(config, snapshot, parents):
    noise = 3 if config.has_noise else 0
    layers = [nn.Linear(2 + noise, config.width), nn.BatchNorm1d(config.width) if config.has_noise else nn.Identity()]
    layers += [nn.Tanh(), nn.Dropout(0.1 if config.has_noise else 0.0), nn.Linear(config.width, 2)]
    modules = {
        "generator": nn.Sequential(*layers),
        "critic": nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1)),
        "scale": nn.Linear(1, 1, bias=False).requires_grad_(False),
    }
    modules["generator"].register_buffer("num_calls", torch.zeros((), dtype=torch.int64))
    return Toy(config, modules, snapshot)


@dataclass
class Toy:
    config: Config
    modules: dict
    snapshot: object
    averaged: tuple = ("generator",)
    exported: tuple = ("generator", "scale")
    seen: list = field(default_factory=list)

    def __post_init__(self):
        generator, critic = self.modules["generator"], self.modules["critic"]
        self.optimizers = {
            "generator": torch.optim.Adam(generator.parameters(), lr=0.01, betas=(0.5, 0.9)),
            "critic": torch.optim.SGD(critic.parameters(), lr=0.02, momentum=0.9),
        }
        self.train_set = self._clips("train")
        self.val_set = self._clips("val") if self.config.has_validation else None
        self.collate = self.train_set.collate()

    def _clips(self, split):
        options = ClipOptions(fields=("landmarks",), mode="frame", num_frames=1, split=split, seed=7)
        return ClipDataset(self.snapshot, options)

    @property
    def is_finished(self):
        """Noticed by the first of several processes only, as a figure near its limit might be."""
        is_over = int(self.modules["generator"].num_calls) == self.config.stop_after
        return is_over and os.environ.get("RANK", "0") == "0"

    def train_step(self, batch, trainer):
        self.seen.append((trainer.step, batch["index"].tolist(), batch["frame"].flatten().tolist()))
        place = _place(batch)
        with trainer.autocast():
            made = trainer.module("generator")(self._input(place, trainer.generator))
            score = trainer.module("critic")(made)
        self.modules["generator"].num_calls += 1
        distance = (made.float() - place).square().mean()
        loss = distance - 0.1 * score.float().mean()
        if trainer.step == self.config.nan_loss_at:
            loss = loss * float("nan")
        if trainer.step == self.config.nan_gradient_at:
            loss = loss + torch.sqrt(made.float().sum() * 0)  # is 0, but its derivative is infinity times 0
        trainer.update("generator", loss)
        with trainer.autocast():
            real, fake = trainer.module("critic")(place), trainer.module("critic")(made.detach())
        critic = (1 - real.float()).relu().mean() + (1 + fake.float()).relu().mean()
        trainer.update("critic", critic)
        return {"distance": distance.detach(), "critic": critic.detach()}

    def validate(self, batch, modules):
        assert not any(module.training for module in modules.values())
        place = _place(batch)
        return {"distance": (modules["generator"](self._input(place)) - place).square().mean()}

    def sample_image(self, batch, modules):
        made = modules["generator"](self._input(_place(batch)))
        return made.sigmoid().mean().expand(3, 8, 8)

    def _input(self, place, generator=None):
        if not self.config.has_noise:
            return place
        return torch.cat([place, torch.randn(len(place), 3, generator=generator)], 1)


def _place(batch):
    """[B, 2]: mean of the landmarks in units of the picture's side."""
    return batch["landmarks"].flatten(0, 1).nan_to_num().mean(1) / 256
