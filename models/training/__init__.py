"""A stage in training on a snapshot: the run, its loop, checkpoints, figures and card, around engine.engine."""
