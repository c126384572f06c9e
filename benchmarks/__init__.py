"""Benchmarks: plain scripts; `python -m benchmarks` runs them all and prints one table for the README.

They measure one thread per process, so the libraries are told before any of them is loaded.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
