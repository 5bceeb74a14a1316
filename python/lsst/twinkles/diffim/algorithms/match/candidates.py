"""Choice of the stamps from which the matching kernel is determined."""

from __future__ import annotations

__all__ = ("KernelCandidates", "select_candidates", "select_in_cells", "share_among_cells")

import math
from dataclasses import dataclass

import numpy as np

from ..in_threads import run_in_threads
from .stamps_nb import count_in_squares, find_peaks


@dataclass(frozen=True)
class KernelCandidates:
    """Positions and brightness of kernel candidates.

    Attributes
    ----------
    x, y : `numpy.ndarray`, ``(N,)``, int
        Central pixels.
    flux : `numpy.ndarray`, ``(N,)``
        Sum over 3 x 3 pixels in the image in which they were found.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> KernelCandidates:
        """Return a subset."""
        return KernelCandidates(x=self.x[index], y=self.y[index], flux=self.flux[index])


def find_candidates(
    image: np.ndarray, *, threshold: float, border: int, per_row: int = 256
) -> KernelCandidates:
    """Find local maxima of a sky-subtracted image whose 3 x 3 sum exceeds a threshold."""
    ny = image.shape[0]
    counts = np.zeros(ny, dtype=np.int64)
    xs, ys = np.zeros((ny, per_row), np.int32), np.zeros((ny, per_row), np.int32)
    values = np.zeros((ny, per_row), np.float32)
    run_in_threads(find_peaks, ny, image, np.float32(threshold), max(border, 2), counts, xs, ys, values)
    keep = np.arange(per_row)[None, :] < counts[:, None]
    return KernelCandidates(x=xs[keep].astype(int), y=ys[keep].astype(int), flux=values[keep].astype(float))


def select_in_cells(
    candidates: KernelCandidates, *, cell_size: int, per_cell: int, separation: float
) -> np.ndarray:
    """Keep the brightest few of each cell, none within ``separation`` pixels of a brighter one kept.

    Parameters
    ----------
    candidates : `KernelCandidates`
        All candidates.
    cell_size : `int`
        Side of the square cells in pixels.
    per_cell : `int`
        Number to keep in each; -1 keeps all.
    separation : `float`
        Least distance in pixels along x or y of two that are kept.

    Returns
    -------
    index : `numpy.ndarray`, int
        Those kept, brightest first.
    """
    order = np.argsort(-candidates.flux, kind="stable")
    filled: dict[tuple[int, int], int] = {}
    near: dict[tuple[int, int], list[int]] = {}
    chosen = []
    for i in order:
        x, y = candidates.x[i], candidates.y[i]
        cell = (int(y // cell_size), int(x // cell_size))
        if 0 <= per_cell <= filled.get(cell, 0):
            continue
        bucket = (int(y // separation), int(x // separation))
        neighbours = (
            j
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            for j in near.get((bucket[0] + dy, bucket[1] + dx), ())
        )
        if any(
            abs(candidates.x[j] - x) < separation and abs(candidates.y[j] - y) < separation
            for j in neighbours
        ):
            continue
        chosen.append(i)
        filled[cell] = filled.get(cell, 0) + 1
        near.setdefault(bucket, []).append(i)
    return np.array(chosen, dtype=int)


def share_among_cells(shape: tuple[int, int], *, cell_size: int, per_cell: int, least: int) -> int:
    """Return how many candidates each cell may hold.

    Parameters
    ----------
    shape : `tuple` [`int`, `int`]
        Ny, Nx of the image.
    cell_size : `int`
        Side of the square cells in pixels.
    per_cell : `int`
        Number where the image has cells enough; -1 for all.
    least : `int`
        Number that all cells together may hold however few they are.
    """
    n_cells = math.prod(math.ceil(n / cell_size) for n in shape)
    return per_cell if per_cell < 0 else max(per_cell, math.ceil(least / n_cells))


def select_candidates(
    found: KernelCandidates,
    *,
    bad: np.ndarray,
    half: int,
    core: int,
    max_bad_fraction: float,
    cell_size: int,
    per_cell: int,
    separation: float,
    max_number: int,
) -> KernelCandidates:
    """Reject candidates on bad pixels, then keep the brightest in cells.

    Parameters
    ----------
    found : `KernelCandidates`
        All candidates.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that may not be used.
    half, core : `int`
        Half side of the stamp and of its core in pixels; a bad pixel in the core rejects it.
    max_bad_fraction : `float`
        Share of bad pixels in the stamp above which it is rejected.
    cell_size, per_cell, separation
        See `select_in_cells`.
    max_number : `int`
        The brightest so many are kept; -1 keeps all.
    """
    ny, nx = bad.shape
    inside = (found.x >= half) & (found.x < nx - half) & (found.y >= half) & (found.y < ny - half)
    found = found.take(np.flatnonzero(inside))
    for reach, most in ((core, 0.0), (half, max_bad_fraction * (2 * half + 1) ** 2)):
        n_bad = np.empty(len(found), dtype=np.int64)
        run_in_threads(count_in_squares, len(found), bad, found.x, found.y, reach, n_bad)
        found = found.take(np.flatnonzero(n_bad <= most))
    chosen = select_in_cells(found, cell_size=cell_size, per_cell=per_cell, separation=separation)
    if max_number >= 0:
        chosen = chosen[:max_number]
    return found.take(chosen)
