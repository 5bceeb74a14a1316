"""Kernels that vary over an image, as sums of products of a column and a row."""

from __future__ import annotations

__all__ = ("SeparableKernels", "correlate", "separate")

from dataclasses import dataclass

import numpy as np

from ..in_threads import run_in_threads
from .separable_nb import STEP, correlate_separable


@dataclass(frozen=True)
class SeparableKernels:
    """One kernel for each square of an image.

    Attributes
    ----------
    tile : `int`
        Side of the squares, from the first pixel on.
    columns, rows : `numpy.ndarray`, ``(Ty, Tx, R, K)``, float32
        Factors: ``kernel[j, i] = sum_r columns[r, j] rows[r, i]``.
    """

    tile: int
    columns: np.ndarray
    rows: np.ndarray

    def images(self) -> np.ndarray:
        """Return the kernels, ``(Ty, Tx, K, K)``."""
        return np.einsum("abrj,abri->abji", self.columns, self.rows, optimize=True)


def separate(kernels: np.ndarray, *, tile: int, tolerance: float) -> SeparableKernels:
    """Find factors of kernels, as few and as short as a tolerance allows.

    Parameters
    ----------
    kernels : `numpy.ndarray`, ``(Ty, Tx, S, S)``
        Kernel of each square; ``S`` odd.
    tile : `int`
        Side of the squares in pixels.
    tolerance : `float`
        Root of the sum of squares of what is left out, once by cutting and once by the number of products,
        over that of the kernel.

    Returns
    -------
    separable : `SeparableKernels`
        The factors, from a singular value decomposition of each kernel.
    """
    half = kernels.shape[-1] // 2
    least = np.sqrt((kernels.astype(float) ** 2).sum(axis=(2, 3))) * tolerance
    reach = STEP // 2
    while reach < half and (_beyond(kernels, half - reach) > least).any():
        reach += STEP  # an odd multiple of STEP pixels, again
    rim = half - reach
    cut = np.pad(kernels, [(0, 0)] * 2 + [(-min(rim, 0),) * 2] * 2)
    cut = cut[:, :, max(rim, 0) : cut.shape[2] - max(rim, 0), max(rim, 0) : cut.shape[3] - max(rim, 0)]
    u, s, v = np.linalg.svd(cut.astype(float))
    rest = np.sqrt(np.cumsum(s[..., ::-1] ** 2, axis=-1))[..., ::-1]
    rank = 1 + int((rest[..., 1:] > least[..., None]).any(axis=(0, 1)).sum())
    columns = (u[..., :rank] * s[..., None, :rank]).transpose(0, 1, 3, 2)
    return SeparableKernels(
        tile=tile,
        columns=np.ascontiguousarray(columns, dtype=np.float32),
        rows=np.ascontiguousarray(v[..., :rank, :], dtype=np.float32),
    )


def _beyond(kernels: np.ndarray, rim: int) -> np.ndarray:
    """Return the root of the sum of squares of the outermost pixels."""
    inner = kernels[:, :, rim:-rim, rim:-rim].astype(float)
    total = (kernels.astype(float) ** 2).sum(axis=(2, 3)) - (inner**2).sum(axis=(2, 3))
    return np.sqrt(np.maximum(total, 0.0))


def correlate(image: np.ndarray, kernels: SeparableKernels) -> np.ndarray:
    """Return ``sum(kernel[j, i] image[y + j - half, x + i - half])`` for each pixel.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Finite image; 0 beyond its rim.
    kernels : `SeparableKernels`
        Kernels; that of a pixel is that of its square.
    """
    out = np.empty(image.shape, np.float32)
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    run_in_threads(correlate_separable, len(pixels), pixels, kernels.tile, kernels.columns, kernels.rows, out)
    return out
