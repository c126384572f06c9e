"""Benchmarks: plain scripts that print ratios measured in one run; `python -m benchmarks` runs them all."""
