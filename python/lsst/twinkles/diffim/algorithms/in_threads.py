"""Compiled loops spread over threads."""

from __future__ import annotations

__all__ = ("map_in_threads", "run_in_threads")

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .threads import get_num_threads

_PARTS_PER_THREAD = 8


def run_in_threads(loop: Callable[..., None], number: int, *arguments: Any) -> None:
    """Call ``loop(begin, end, *arguments)`` for parts of a range, at once.

    Parameters
    ----------
    loop : callable
        Compiled function that releases the interpreter's lock and writes what it finds into some of its
        arguments, one place for each index.
    number : `int`
        The range is from 0 to it.
    *arguments
        Passed on.

    Notes
    -----
    Threads of Python rather than numba's own loops: these take two to three times as long to compile.
    """
    n_threads = get_num_threads()
    parts = 1 if n_threads == 1 else _PARTS_PER_THREAD * n_threads
    map_in_threads(
        lambda part: loop(part.start, part.stop, *arguments), number, chunk=max(1, -(-number // parts))
    )


def map_in_threads[T](function: Callable[[slice], T], number: int, *, chunk: int) -> list[T]:
    """Return what a function returns for parts of a range, in their order.

    Parameters
    ----------
    function : callable
        Takes a part as a slice.
    number : `int`
        The range is from 0 to it.
    chunk : `int`
        Length of the parts.
    """
    parts = [slice(begin, min(begin + chunk, number)) for begin in range(0, number, chunk)]
    n_threads = min(get_num_threads(), len(parts))
    if n_threads <= 1:
        return [function(part) for part in parts]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, parts))
