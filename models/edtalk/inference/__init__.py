"""Animating a portrait with EDTalk."""
