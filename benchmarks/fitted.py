"""A learner trained in memory, without a run's folder."""

import sys
import time
from typing import Any

from models.training.engine.config import TrainConfig
from models.training.engine.engine import Engine


def fitted(learner: Any, config: TrainConfig, device: str, name: str) -> Engine:
    """The engine after all steps; progress goes to stderr."""
    engine, began = Engine(learner, config, device=device), time.perf_counter()
    for batch in engine.batches():
        engine.advance(batch)
        if engine.step % config.log_every == 0:
            means = ", ".join(f"{key} {value:.4f}" for key, value in engine.take_means().items())
            seconds = time.perf_counter() - began
            print(f"{name}: {engine.step}/{config.max_steps}, {seconds:.0f} s, {means}", file=sys.stderr, flush=True)
    return engine
