"""How many threads the numerical work may use."""

from __future__ import annotations

__all__ = ("get_num_threads", "single_threaded_algebra")

import os

import threadpoolctl

VARIABLE = "TWINKLES_DIFFIM_NUM_THREADS"


def get_num_threads() -> int:
    """Return the number of threads for Fourier transforms and compiled loops.

    One setting rules: the environment variable ``TWINKLES_DIFFIM_NUM_THREADS``, else
    ``OMP_NUM_THREADS`` (which batch systems and worker pools set), else the processors
    this process may run on.

    Raises
    ------
    ValueError
        The variable is not a positive integer.
    """
    for name in (VARIABLE, "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").strip()
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(
                    f"{name} must be a positive integer, got {text!r}; unset it to use all processors."
                )
            return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Decorator of functions in which linear algebra uses one thread. Its matrices are small here: threads that
# wait for each other take several times as long on a busy machine, and what is large has threads of its own.
single_threaded_algebra = threadpoolctl.threadpool_limits.wrap(limits=1, user_api="blas")
