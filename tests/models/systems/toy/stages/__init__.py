"""Stages of the toy system."""
