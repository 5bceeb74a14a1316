"""The first run on a machine: a second process compiles what the first will need later."""

from __future__ import annotations

__all__ = ("compile_ahead",)

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..algorithms.measure import dipole_nb, rehearse
from ..algorithms.threads import get_num_threads

_LOG = logging.getLogger("lsst.twinkles.diffim.compile")


@contextmanager
def compile_ahead() -> Iterator[None]:
    """Have the fits to sources compiled in another process, if they are not yet and threads may be used.

    Notes
    -----
    numba compiles one function at a time in a process. The fits take more than half of it all and come last:
    until the images are subtracted they lie in the cache. What does not is compiled as ever, so that nothing
    depends on the other process, which ends with the block.
    """
    if get_num_threads() < 2 or _is_compiled():
        yield
        return
    _LOG.info("Compiling; the first run on a machine takes 20 to 30 s more than others.")
    with subprocess.Popen(
        [sys.executable, "-m", rehearse.__name__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt is for this process, which ends the other
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def _is_compiled() -> bool:
    """Tell whether the longest of the loops is in the cache; also true where there is no cache."""
    loop: Any = dipole_nb.fit_dipoles
    if (place := loop.stats.cache_path) is None:
        return True
    source = Path(dipole_nb.__file__).stat().st_mtime
    kept = Path(place).glob(f"dipole_nb.{loop.py_func.__name__}-*.nbi")
    return any(index.stat().st_mtime >= source for index in kept)
