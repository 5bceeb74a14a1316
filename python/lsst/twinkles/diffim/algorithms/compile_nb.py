"""Compilation of loops, kept on disk where there is a place for it."""

from __future__ import annotations

__all__ = ("LEAN", "njit")

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba

LEAN: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
"""Options of loops over sources: threads of Python run them, and sums may be taken in any order (which makes
vector instructions of them)."""

_LOG = logging.getLogger("lsst.twinkles.diffim.compile")


def njit(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function as `numba.njit` does, without its cache where none can be written.

    Machine code is kept beside the module, or in the user's cache directory if the installation is
    read-only, or where ``NUMBA_CACHE_DIR`` says. If all of these are read-only numba would refuse.

    Parameters
    ----------
    **options
        Those of `numba.njit`.

    Returns
    -------
    decorate : callable
        Decorator.
    """
    # A division by zero gives what IEEE says, as elsewhere in numpy: errors would take longer to compile.
    options = {"error_model": "numpy"} | options

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(**options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _say_once()
            return numba.njit(**options | {"cache": False})(function)

    return decorate


@functools.cache
def _say_once() -> None:
    _LOG.warning(
        "There is no place to keep compiled loops: neither the installation nor the user's cache directory "
        "can be written, and so every process takes about a minute to compile them. Set NUMBA_CACHE_DIR to a "
        "directory that can be."
    )
