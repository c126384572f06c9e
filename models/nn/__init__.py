"""Layers, losses and small networks that several systems share."""
