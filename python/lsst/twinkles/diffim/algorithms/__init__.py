"""Numerical work on arrays: no tasks, no files."""

import os

# Idle OpenMP threads of numba would spin: beside other jobs on the same processors that doubles the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
