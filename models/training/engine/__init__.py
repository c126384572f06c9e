"""The training loop of one stage: engine, learner, batches, state."""
