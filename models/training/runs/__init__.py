"""One training run: its folder, checkpoints, card, locks and signals."""
