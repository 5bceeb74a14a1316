"""A point-spread function sampled on a regular grid of positions."""

from __future__ import annotations

__all__ = ("PsfGrid", "bracket")

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PsfGrid:
    """PSF stamps on a regular grid; bilinear between the grid points.

    Attributes
    ----------
    stamps : `numpy.ndarray`, ``(Gy, Gx, S, S)``, float64
        Unit-sum stamps, centred on the centre of the middle pixel; ``S`` odd.
    x, y : `numpy.ndarray`, ``(Gx,)`` and ``(Gy,)``
        Increasing pixel positions of the grid columns and rows (the centre of
        the first pixel of an array is 0).

    Notes
    -----
    Positions outside the grid take the value of its rim.
    """

    stamps: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        if (
            self.stamps.ndim != 4
            or self.stamps.shape[2] != self.stamps.shape[3]
            or self.stamps.shape[2] % 2 == 0
        ):
            raise ValueError(
                f"PsfGrid stamps must have shape (Gy, Gx, S, S) with odd S, got {self.stamps.shape}; "
                "pad even stamps by one row and column first."
            )
        if self.stamps.shape[:2] != (len(self.y), len(self.x)):
            raise ValueError(
                f"PsfGrid needs one stamp per grid point: stamps {self.stamps.shape[:2]}, "
                f"y {len(self.y)}, x {len(self.x)}."
            )
        for name, values in (("x", self.x), ("y", self.y)):
            if len(values) > 1 and not np.all(np.diff(values) > 0):
                raise ValueError(f"PsfGrid {name} positions must increase, got {values}.")
        if not np.isfinite(self.stamps).all():
            raise ValueError("PsfGrid stamps must be finite.")

    @property
    def size(self) -> int:
        """Side of a stamp in pixels (`int`, odd)."""
        return self.stamps.shape[2]

    @classmethod
    def constant(cls, stamp: np.ndarray) -> PsfGrid:
        """Make a grid of one point from a single stamp ``(S, S)``."""
        return cls(stamps=np.asarray(stamp, dtype=float)[None, None], x=np.zeros(1), y=np.zeros(1))

    def evaluate(self, *, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Return the stamps at positions.

        Parameters
        ----------
        x, y : array-like, shape ``(N,)`` or scalar
            Positions in pixels.

        Returns
        -------
        stamps : `numpy.ndarray`, ``(N, S, S)`` or ``(S, S)``
            Unit-sum stamps centred on the middle pixel.
        """
        xs, ys = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        i0, i1, u = bracket(self.x, xs)
        j0, j1, v = bracket(self.y, ys)
        u, v = u[:, None, None], v[:, None, None]
        result = (1 - v) * ((1 - u) * self.stamps[j0, i0] + u * self.stamps[j0, i1]) + v * (
            (1 - u) * self.stamps[j1, i0] + u * self.stamps[j1, i1]
        )
        return result[0] if np.ndim(x) == 0 and np.ndim(y) == 0 else result

    def mean(self) -> np.ndarray:
        """Return the mean stamp, ``(S, S)``."""
        return self.stamps.mean(axis=(0, 1))

    def padded(self, size: int) -> PsfGrid:
        """Return the same PSF on stamps of another (odd) size, renormalised."""
        if size % 2 == 0:
            raise ValueError(f"Stamp size must be odd, got {size}.")
        stamps, change = self.stamps, (size - self.size) // 2
        if change > 0:
            stamps = np.pad(stamps, ((0, 0), (0, 0), (change, change), (change, change)))
        elif change < 0:
            stamps = stamps[:, :, -change:change, -change:change]
            stamps = stamps / stamps.sum(axis=(2, 3), keepdims=True)
        return PsfGrid(stamps=stamps, x=self.x, y=self.y)


def bracket(nodes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower index, upper index and weight of the upper node."""
    if len(nodes) == 1:
        zeros = np.zeros(len(values), dtype=int)
        return zeros, zeros, np.zeros(len(values))
    lower = np.clip(np.searchsorted(nodes, values) - 1, 0, len(nodes) - 2)
    weight = np.clip((values - nodes[lower]) / (nodes[lower + 1] - nodes[lower]), 0.0, 1.0)
    return lower, lower + 1, weight
