"""A map from the pixels of one grid to positions in another, known on a coarse grid."""

from __future__ import annotations

__all__ = ("PixelMap", "map_nodes")

from dataclasses import dataclass

import numpy as np


def map_nodes(shape: tuple[int, int], *, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions at which a map has to be known.

    Parameters
    ----------
    shape : `tuple` [`int`, `int`]
        ``(Ny, Nx)`` of the output grid.
    step : `int`
        Distance between nodes in pixels.

    Returns
    -------
    x, y : `numpy.ndarray`, ``(Gx,)`` and ``(Gy,)``
        Multiples of ``step`` from 0 to the last pixel or just beyond; at least two.
    """
    ny, nx = shape
    return (
        step * np.arange(max(2, -(-(nx - 1) // step) + 1), dtype=float),
        step * np.arange(max(2, -(-(ny - 1) // step) + 1), dtype=float),
    )


@dataclass(frozen=True)
class PixelMap:
    """Input positions of output pixels, bilinear between nodes.

    Attributes
    ----------
    x, y : `numpy.ndarray`, ``(Gy, Gx)``
        Position in the input array that belongs to each node; the centre of
        the first pixel of an array is 0.
    step : `int`
        Distance between nodes in output pixels.
    """

    x: np.ndarray
    y: np.ndarray
    step: int

    def __post_init__(self) -> None:
        if self.x.shape != self.y.shape or self.x.ndim != 2 or min(self.x.shape) < 2:
            raise ValueError(
                "PixelMap needs x and y of one shape of at least (2, 2), "
                f"got {self.x.shape} and {self.y.shape}."
            )

    def evaluate(self, *, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Return the input positions of output positions.

        Parameters
        ----------
        x, y : array-like, ``(N,)`` or scalar
            Output positions in pixels.

        Returns
        -------
        x_in, y_in : `numpy.ndarray`, ``(N,)``
            Input positions; extrapolated outside the nodes.
        """
        column, u = self._bracket(x, self.x.shape[1])
        row, v = self._bracket(y, self.x.shape[0])
        result = []
        for node in (self.x, self.y):
            lower = (1 - u) * node[row, column] + u * node[row, column + 1]
            upper = (1 - u) * node[row + 1, column] + u * node[row + 1, column + 1]
            result.append((1 - v) * lower + v * upper)
        return result[0], result[1]

    def jacobian(self, *, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Return the derivatives of input by output positions.

        Parameters
        ----------
        x, y : array-like, ``(N,)`` or scalar
            Output positions in pixels.

        Returns
        -------
        jacobian : `numpy.ndarray`, ``(N, 2, 2)``
            ``[[dx_in/dx, dx_in/dy], [dy_in/dx, dy_in/dy]]``.
        """
        half = self.step / 2
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        right, left = self.evaluate(x=x + half, y=y), self.evaluate(x=x - half, y=y)
        up, down = self.evaluate(x=x, y=y + half), self.evaluate(x=x, y=y - half)
        by_x = [(r - p) / self.step for r, p in zip(right, left, strict=True)]
        by_y = [(r - p) / self.step for r, p in zip(up, down, strict=True)]
        return np.stack([np.stack([by_x[0], by_y[0]], -1), np.stack([by_x[1], by_y[1]], -1)], -2)

    def _bracket(self, values: np.ndarray | float, n_nodes: int) -> tuple[np.ndarray, np.ndarray]:
        scaled = np.atleast_1d(np.asarray(values, float)) / self.step
        lower = np.clip(np.floor(scaled).astype(int), 0, n_nodes - 2)
        return lower, scaled - lower
