"""Sky level and noise of an image, on coarse grids."""

from __future__ import annotations

__all__ = (
    "MAD_TO_SIGMA",
    "NoiseMap",
    "fit_sky",
    "measure_photon_variance",
    "pixel_noise_ratio",
    "sky_variance_map",
)

from dataclasses import dataclass

import numpy as np

from .cells_nb import MAD_TO_SIGMA, clipped_medians, interpolate_grid
from .in_threads import run_in_threads
from .robust import robust_scatter
from .spatial import chebyshev_terms

_CLIP = 3.0
_ITERATIONS = 3


@dataclass(frozen=True)
class NoiseMap:
    """Variance of the blank sky on a coarse grid, bilinear between its points.

    Attributes
    ----------
    values : `numpy.ndarray`, ``(Gy, Gx)``
        Variance in squared counts.
    x, y : `numpy.ndarray`
        Pixel positions of the columns and rows of the grid.
    """

    values: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def evaluate(self, *, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Return the variance at positions (broadcast together); the rim's value outside."""
        i, u = _bracket(self.x, np.asarray(x, float))
        j, v = _bracket(self.y, np.asarray(y, float))
        i1, j1 = np.minimum(i + 1, len(self.x) - 1), np.minimum(j + 1, len(self.y) - 1)
        low = (1 - u) * self.values[j, i] + u * self.values[j, i1]
        high = (1 - u) * self.values[j1, i] + u * self.values[j1, i1]
        return (1 - v) * low + v * high

    def image(self, shape: tuple[int, int], *, row_step: int = 1) -> np.ndarray:
        """Return the variance of every pixel, or of every so manieth row, float32."""
        rows = _bracket(self.y, np.arange(0, shape[0], row_step, dtype=float))
        columns = _bracket(self.x, np.arange(shape[1], dtype=float))
        out = np.empty((len(rows[0]), shape[1]), dtype=np.float32)
        run_in_threads(interpolate_grid, len(out), self.values.astype(np.float32), *rows, *columns, out)
        return out

    def scaled(self, factor: float) -> NoiseMap:
        """Return the map multiplied by a factor."""
        return NoiseMap(values=self.values * factor, x=self.x, y=self.y)

    def plus(self, other: NoiseMap) -> NoiseMap:
        """Return the sum with another map, on the nodes of both."""
        if np.array_equal(self.x, other.x) and np.array_equal(self.y, other.y):
            return NoiseMap(values=self.values + other.values, x=self.x, y=self.y)
        x, y = np.union1d(self.x, other.x), np.union1d(self.y, other.y)
        grid = {"x": x[None, :], "y": y[:, None]}
        return NoiseMap(values=self.evaluate(**grid) + other.evaluate(**grid), x=x, y=y)

    @property
    def median(self) -> float:
        """Median over the grid."""
        return float(np.median(self.values))


def _bracket(nodes: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(nodes) == 1:
        return np.zeros(positions.shape, int), np.zeros(positions.shape)
    lower = np.clip(np.searchsorted(nodes, positions) - 1, 0, len(nodes) - 2)
    return lower, np.clip((positions - nodes[lower]) / (nodes[lower + 1] - nodes[lower]), 0.0, 1.0)


def _cells(shape: tuple[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of nearly equal cells of about ``size`` pixels."""
    n_y, n_x = (max(1, round(extent / size)) for extent in shape)
    return np.linspace(0, shape[0], n_y + 1).astype(int), np.linspace(0, shape[1], n_x + 1).astype(int)


def cell_statistics(
    image: np.ndarray, bad: np.ndarray, *, size: int, min_fraction: float, max_pixels: int = 750_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Clipped median and scatter in cells.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels left out.
    size : `int`
        Approximate side of the cells in pixels.
    min_fraction : `float`
        Cells with a smaller share of good pixels are NaN.
    max_pixels : `int`
        Pixels to look at in all; of each cell a regular subset is taken, of 256 pixels at least.

    Returns
    -------
    median, sigma, number : `numpy.ndarray`, ``(Cy, Cx)``
        Median and scatter after clipping at 3 sigma thrice, and pixels that went in.
    x, y : `numpy.ndarray`
        Cell centres.
    """
    edge_y, edge_x = _cells(image.shape, size)
    shape = (len(edge_y) - 1, len(edge_x) - 1)
    median, sigma, number = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    most = int(np.clip(max_pixels / (shape[0] * shape[1]), 256, 4096))
    cells = image, bad, edge_y, edge_x, most, min_fraction, _CLIP, _ITERATIONS
    run_in_threads(clipped_medians, median.size, *cells, median, sigma, number)
    return median, sigma, number, 0.5 * (edge_x[1:] + edge_x[:-1] - 1), 0.5 * (edge_y[1:] + edge_y[:-1] - 1)


def fit_sky(image: np.ndarray, bad: np.ndarray, *, size: int, order: int) -> np.ndarray:
    """Fit a Chebyshev polynomial to the sky.

    Parameters
    ----------
    image, bad : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels and those to leave out.
    size : `int`
        Side of the cells whose medians are fitted.
    order : `int`
        Total degree; lowered where there are too few cells.

    Returns
    -------
    terms : `numpy.ndarray`
        Coefficients in the order of `spatial.chebyshev_terms`.
    """
    median, _, number, x, y = cell_statistics(image, bad, size=size, min_fraction=0.25)
    return fit_cells(median, number, x, y, shape=image.shape, order=order)


def fit_cells(
    values: np.ndarray,
    number: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    shape: tuple[int, int],
    order: int,
) -> np.ndarray:
    """Fit a Chebyshev polynomial to cell values, leaving out cells that deviate by 3 sigma."""
    n_terms = (order + 1) * (order + 2) // 2
    good = np.isfinite(values)
    if not good.any():
        return np.zeros(n_terms)
    grid_x, grid_y = np.meshgrid(x, y)
    while order > 0 and good.sum() < 3 * (order + 1) * (order + 2) // 2:
        order -= 1
    terms = chebyshev_terms(x=grid_x[good], y=grid_y[good], shape=shape, order=order)
    data, weight = values[good], np.sqrt(number[good])
    keep = np.ones(len(data), dtype=bool)
    for _ in range(5):
        solution = np.linalg.lstsq(terms[keep] * weight[keep, None], data[keep] * weight[keep], rcond=None)[0]
        residual = data - terms @ solution
        width = MAD_TO_SIGMA * np.median(np.abs(residual[keep]))
        new = np.abs(residual) <= 3.0 * width + 1e-12 * (1 + np.abs(data).max())
        if new.sum() < terms.shape[1] or np.array_equal(new, keep):
            break
        keep = new
    return np.concatenate([solution, np.zeros(n_terms - len(solution))])


def sky_variance_map(variance: np.ndarray, bad: np.ndarray, *, size: int) -> NoiseMap:
    """Return the variance of the blank sky, as the clipped median of a variance plane in cells.

    Cells without data take the median of the others.

    Raises
    ------
    ValueError
        No cell has data.
    """
    median, _, _, x, y = cell_statistics(variance, bad, size=size, min_fraction=0.02)
    if not np.isfinite(median).any():
        raise ValueError(
            "The variance plane has no usable pixel; give an image that is not masked everywhere."
        )
    return NoiseMap(values=np.where(np.isfinite(median), median, np.nanmedian(median)), x=x, y=y)


def pixel_noise_ratio(image: np.ndarray, sky: NoiseMap, bad: np.ndarray, *, sample: int = 1_000_000) -> float:
    """Return the scatter of the pixels over what the variance plane claims.

    Differences of neighbouring pixels along x are used, in which sky and the
    slopes of faint sources cancel; their median absolute value is robust
    against sources.  1 means that the claimed variance is true; of a resampled image,
    whose pixels are correlated, the ratio falls short of 1.

    Returns
    -------
    ratio : `float`
        Ratio of standard deviations, NaN if nothing can be measured.
    """
    step = max(1, int(np.ceil(image.size / sample)))
    variance = sky.image(image.shape, row_step=step)
    rows = slice(None, None, step)
    image, bad = image[rows], bad[rows]
    difference = image[:, 1:] - image[:, :-1]
    good = ~(bad[:, 1:] | bad[:, :-1])
    if good.sum() < 100:
        return float("nan")
    values = (difference / np.sqrt(np.float32(2.0) * variance[:, 1:]))[good]
    return robust_scatter(values)


def measure_photon_variance(
    image: np.ndarray, variance: np.ndarray, sky: np.ndarray, bad: np.ndarray
) -> float:
    """Return the variance that a count of signal adds, from image and variance plane.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(N,)``
        Sky-subtracted signal and variance of bright pixels.
    sky : `numpy.ndarray`, ``(N,)``
        Variance of the blank sky at these pixels.
    bad : `numpy.ndarray`, ``(N,)``, bool
        Pixels left out.

    Returns
    -------
    slope : `float`
        Variance per count (1 / gain), 0 where the variance plane does not follow the signal.
    """
    good = ~bad & (image > 3.0 * np.sqrt(sky)) & np.isfinite(variance)
    if good.sum() < 10:
        return 0.0
    return max(0.0, float(np.sum((variance - sky)[good]) / np.sum(image[good])))
