"""Memory that a process is better off to keep, and to leave to the system in the end."""

from __future__ import annotations

__all__ = ("end_quickly", "import_quickly", "keep_freed_memory", "prepare_process")

import atexit
import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3), and the largest array that is to be kept when it is freed.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST = 1 << 30


def prepare_process() -> None:
    """Let this process, which is a command's own, treat memory and masks as suits large images."""
    from ..adapters.mask_update import copy_masks_by_bytes

    keep_freed_memory()
    end_quickly()
    copy_masks_by_bytes()


def keep_freed_memory() -> None:
    """Let this process keep the memory of arrays that were freed for those to come.

    Notes
    -----
    The GNU C library gives blocks beyond 32 MB back to the system one by one, an image of a large CCD for
    instance; the system then clears each new one, which takes longer than most of what is done with it.
    Elsewhere nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        library.mallopt(parameter, _LARGEST)
    library.mallopt(_M_ARENA_MAX, 1)  # those of threads would be given back all the same


def end_quickly() -> None:
    """Let this process end without looking for cycles among its objects, whose memory goes with it anyway.

    Notes
    -----
    Over the hundreds of thousands that the framework has imported that takes more than a second.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


@contextmanager
def import_quickly() -> Iterator[None]:
    """Let the framework be imported without looking for cycles among what stays, then and later.

    Notes
    -----
    Nothing is done in a process that has imported it already: what else is there may be in a cycle.
    """
    if "lsst.pipe.base" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
