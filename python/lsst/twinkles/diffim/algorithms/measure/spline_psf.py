"""A PSF that can be drawn at any fraction of a pixel, fast, with its slopes."""

from __future__ import annotations

__all__ = ("SplinePsf",)

from dataclasses import dataclass

import numpy as np
import scipy.fft

from ..psf_grid import PsfGrid, bracket

_OVERSAMPLING = 4
_MARGIN = 4


@dataclass(frozen=True)
class SplinePsf:
    """Cubic B-spline coefficients of a PSF, at four samples a pixel.

    Attributes
    ----------
    coefficients : `numpy.ndarray`, ``(G, 4, 4, B, B)``, float32
        For each node of the grid of positions and each phase along y and x (quarters of a pixel) the
        coefficients on a raster of whole pixels, the middle one being the centre of the PSF.
    x, y : `numpy.ndarray`, ``(Gx,)`` and ``(Gy,)``
        Positions of the nodes, ``G = Gy Gx``.
    reach : `int`
        Half side of the largest square that can be drawn, pixels.
    extent : `int`
        Half side of the square beyond which the PSF is 0, pixels.

    Notes
    -----
    Stamps are oversampled by a Fourier transform padded with zeros, which is exact for a PSF without
    frequencies beyond those of the pixels; the spline between the samples adds an error of some 1e-6, single
    precision 1e-7.
    """

    coefficients: np.ndarray
    x: np.ndarray
    y: np.ndarray
    reach: int
    extent: int

    @classmethod
    def from_grid(cls, grid: PsfGrid | SplinePsf, *, reach: int = 0) -> SplinePsf:
        """Make the splines.

        Parameters
        ----------
        grid : `PsfGrid` or `SplinePsf`
            PSF; splines that reach far enough are returned as they are.
        reach : `int`, optional
            Least half side of the squares to be drawn, pixels; beyond its stamps the PSF is 0.
        """
        if isinstance(grid, SplinePsf):
            if grid.reach < reach:
                raise ValueError(
                    f"Squares of {reach} pixels to each side are to be drawn, and the splines of this PSF "
                    f"reach {grid.reach}; make them with reach={reach}."
                )
            return grid
        reach = max(reach, grid.size // 2)
        side = 2 * (reach + _MARGIN) + 1
        change = (side - grid.size) // 2
        stamps = grid.stamps.reshape(-1, grid.size, grid.size)
        stamps = np.pad(stamps, ((0, 0), (change, change), (change, change)))
        phases = _phases(stamps)
        return cls(
            coefficients=np.ascontiguousarray(phases, dtype=np.float32),
            x=grid.x,
            y=grid.y,
            reach=reach,
            extent=grid.size // 2,
        )

    def nodes_at(self, *, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the four nodes around positions and their bilinear weights.

        Parameters
        ----------
        x, y : `numpy.ndarray`, ``(N,)``
            Positions in pixels.

        Returns
        -------
        nodes : `numpy.ndarray`, ``(N, 4)``, int64
            Indices into ``coefficients``.
        shares : `numpy.ndarray`, ``(N, 4)``, float64
            Weights; they sum to 1.
        """
        i0, i1, u = bracket(self.x, np.asarray(x, float))
        j0, j1, v = bracket(self.y, np.asarray(y, float))
        n = len(self.x)
        nodes = np.stack([j0 * n + i0, j0 * n + i1, j1 * n + i0, j1 * n + i1], axis=1).astype(np.int64)
        shares = np.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], axis=1)
        return nodes.reshape(-1, 4), shares.reshape(-1, 4)


def _phases(stamps: np.ndarray) -> np.ndarray:
    """Return the spline coefficients of stamps ``(G, S, S)`` of odd side by phase, ``(G, 4, 4, S, S)``."""
    n, side = stamps.shape[:2]
    half, fine = side // 2, _OVERSAMPLING * side
    spectrum = scipy.fft.rfft2(stamps)
    padded = np.zeros((n, fine, fine // 2 + 1), complex)
    padded[:, : half + 1, : half + 1], padded[:, -half:, : half + 1] = (
        spectrum[:, : half + 1],
        spectrum[:, -half:],
    )
    # What a cubic spline makes of its coefficients (1/6, 2/3, 1/6) is undone along both axes.
    response = (2.0 + np.cos(2.0 * np.pi * np.arange(fine) / fine)) / 3.0
    padded *= _OVERSAMPLING**2 / (response[:, None] * response[: fine // 2 + 1])
    coefficients = scipy.fft.irfft2(padded, s=(fine, fine))
    return coefficients.reshape(n, side, _OVERSAMPLING, side, _OVERSAMPLING).transpose(0, 2, 4, 1, 3)
