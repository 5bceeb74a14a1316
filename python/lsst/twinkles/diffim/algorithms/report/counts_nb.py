"""Compiled counts of mask bits."""

from __future__ import annotations

__all__ = ("count_bits",)

import numpy as np

from ..compile_nb import njit


@njit(cache=True, nogil=True)
def count_bits(begin, end, mask, counts):  # type: ignore[no-untyped-def]
    """Count how many pixels of some rows of a mask ``(Ny, Nx, B)``, uint8, have each bit, ``(Ny, B, 8)``."""
    nx, n_bytes = mask.shape[1:]
    for y in range(begin, end):
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
