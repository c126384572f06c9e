"""Benchmarks: plain scripts that print ratios measured in one run; `python -m benchmarks` runs them all."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # read when the libraries load: this package is imported before any of them
