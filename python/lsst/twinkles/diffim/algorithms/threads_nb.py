"""Number of threads of compiled loops."""

from __future__ import annotations

__all__ = ("limit_compiled_threads",)

import numba


def limit_compiled_threads(number: int) -> None:
    """Let compiled loops of this thread use at most so many threads."""
    most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    numba.set_num_threads(max(1, min(number, most)))
