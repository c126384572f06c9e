"""Flows: the wiring. The only package that submits work, starts servers or parses a command line."""
