"""Compiled counts of mask bits."""

from __future__ import annotations

__all__ = ("count_bits",)

import numpy as np
from numba import prange

from ..compile_nb import njit


@njit(cache=True, parallel=True, nogil=True)
def count_bits(mask):  # type: ignore[no-untyped-def]
    """Return how many pixels of a mask ``(Ny, Nx, B)``, uint8, have each bit, ``(B, 8)``."""
    ny, nx, n_bytes = mask.shape
    counts = np.zeros((ny, n_bytes, 8), dtype=np.int64)
    for y in prange(ny):
        histogram = np.zeros((n_bytes, 256), dtype=np.int64)
        for x in range(nx):
            for b in range(n_bytes):
                histogram[b, mask[y, x, b]] += 1
        for b in range(n_bytes):
            for value in range(1, 256):
                if histogram[b, value] > 0:
                    for bit in range(8):
                        if value >> bit & 1:
                            counts[y, b, bit] += histogram[b, value]
    return counts.sum(axis=0)
