"""PyTorch datasets over a published snapshot."""
