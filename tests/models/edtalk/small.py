"""Settings that make EDTalk's stages small enough for the contract tests of tests/models."""

from models.edtalk.networks.shape import Shape

SMALL = {"shape": Shape(size_px=32, width=1 / 32, latent_dim=48)}
# Losses that are off by default.
RANKS = {"reconstruction": {"mouth_weight": 1.0}, "mouth_pose": {"mouth_weight": 1.0}}
