"""A stage that starts from the toy GAN's generator and moves it towards zero."""

import torch
from torch import nn

from models.data.clip_dataset import ClipDataset, ClipOptions
from models.training.engine.config import StageConfig, TrainConfig

VERSION = 3
PARENTS = ("gan",)
FEATURES = ()


class Config(StageConfig):
    """With `rate` 0 the weights stay what they were."""

    rate: float = 0.1
    train: TrainConfig = TrainConfig(max_steps=3, batch_size=2, log_every=2)


PRESETS = {"smoke": Config(), "paper": Config()}


def build(config, snapshot, parents):
    return Shrink(snapshot, parents["gan"], config.rate)


class Shrink:
    averaged, exported, val_set = (), ("line",), None

    def __init__(self, snapshot, start, rate):
        line = nn.Linear(8, 2)
        line.load_state_dict({"weight": start["generator.4.weight"], "bias": start["generator.4.bias"]})
        self.modules = {"line": line}
        self.optimizers = {"line": torch.optim.SGD(line.parameters(), lr=rate)}
        self.train_set = ClipDataset(snapshot, ClipOptions(fields=("labels",)))
        self.collate = self.train_set.collate()

    def train_step(self, batch, trainer):
        loss = trainer.module("line")(torch.eye(8)).square().sum()
        trainer.update("line", loss)
        return {"size": loss.detach()}

    def validate(self, batch, modules):
        raise AssertionError("there is no val_set")

    def sample_image(self, batch, modules):
        return None
