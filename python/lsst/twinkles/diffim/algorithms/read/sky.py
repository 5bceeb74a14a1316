"""Local sky level and pixel scatter of an image that brings no noise model."""

from __future__ import annotations

__all__ = (
    "SkyModel",
    "estimate_sky",
    "estimate_source_poisson",
    "fine_variance",
    "neighbour_correlation",
    "scatter_over_variance",
)

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, convolve1d, distance_transform_edt, gaussian_filter, median_filter

# Standard deviation of a unit Gaussian cut at 3 sigma.
_CUT_GAUSSIAN_STD = 0.98658
_MIN_GOOD_FRACTION = 0.3
# Distance of the pixels that are compared with each other, and their number at most.
_COLUMNS_APART = 5
_N_DIFFERENCES = 2_000_000


@dataclass(frozen=True)
class SkyModel:
    """Sky level and pixel scatter over an image.

    Attributes
    ----------
    level, sigma : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Sky and standard deviation of a sky pixel, in pixel units.
    """

    level: np.ndarray
    sigma: np.ndarray


def estimate_sky(image: np.ndarray, bad: np.ndarray, *, mesh: int, n_sigma: float = 3.0) -> SkyModel:
    """Estimate the sky and its scatter in square cells and interpolate between their centres.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels; not finite ones are left out.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to leave out.
    mesh : `int`
        Side of a cell in pixels, several times the size of a star.
    n_sigma : `float`, optional
        Sources are clipped at this many standard deviations.

    Returns
    -------
    sky : `SkyModel`
        Cells that a source fills (less than three tenths of the pixels left) take the value of the nearest
        good one, and a 3 x 3 median over the cells removes what single bright sources leave.

    Raises
    ------
    ValueError
        If no cell has enough good pixels.
    """
    ny, nx = image.shape
    ys, xs = _cell_edges(ny, mesh), _cell_edges(nx, mesh)
    usable = np.isfinite(image) & ~bad
    level, sigma = np.full((2, len(ys) - 1, len(xs) - 1), np.nan)
    for j, i in np.ndindex(level.shape):
        cell = np.s_[ys[j] : ys[j + 1], xs[i] : xs[i + 1]]
        values = image[cell][usable[cell]].astype(float)
        if values.size >= max(_MIN_GOOD_FRACTION * usable[cell].size, 10):
            level[j, i], sigma[j, i] = _clipped_statistics(values, n_sigma, usable[cell].size)
    if np.isnan(level).all():
        raise ValueError(
            f"No cell of {mesh} x {mesh} pixels has enough good ones to estimate the sky: {usable.sum()} of "
            f"{usable.size} pixels are finite and not masked. Give an image with sky in it."
        )
    weights_y, weights_x = _linear_weights(ys, ny), _linear_weights(xs, nx)
    smooth = [median_filter(_fill_nearest(cells), size=3, mode="nearest") for cells in (level, sigma)]
    full = [(weights_y @ cells @ weights_x.T).astype(np.float32) for cells in smooth]
    return SkyModel(level=full[0], sigma=full[1])


def estimate_source_poisson(image: np.ndarray, sky: SkyModel, *, gain: float) -> np.ndarray:
    """Estimate the variance that the photons of the sources add to that of the sky.

    The light above the sky is smoothed with a Gaussian of one pixel and cut at 1.5 of its standard
    deviations, so that the result is not correlated with the noise of blank sky.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels, sky included or not; those that are not finite count as sky.
    sky : `SkyModel`
        Its sky.
    gain : `float`
        Electrons per pixel unit.

    Returns
    -------
    variance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Light of the sources over the gain, in squared pixel units; never negative.
    """
    excess = np.where(np.isfinite(image), image - sky.level, 0.0).astype(np.float32)
    smooth = gaussian_filter(excess, 1.0)
    # White noise smoothed with a Gaussian of width s has 1 / (2 sqrt(pi) s) of its standard deviation.
    noise = sky.sigma / (2.0 * np.sqrt(np.pi))
    return np.where(smooth > 1.5 * noise, smooth / gain, 0.0).astype(np.float32)


def fine_variance(image: np.ndarray) -> tuple[float, float]:
    """Return variance about their neighbours and mean of the pixels of the darker half of an image.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels, those without data not finite.

    Returns
    -------
    variance : `float`
        Of a pixel, from second differences along both axes (Immerkaer 1996, doi:10.1006/cviu.1996.0060),
        which sources that are wider than a pixel hardly have; it is that of the noise also where no pixel
        is free of stars, and less than that where the noise is smooth. NaN for fewer than 100 pixels.
    level : `float`
        Their mean. Which half is the darker one, an image smoothed with a Gaussian of two pixels tells, so
        that it is not the noise that chooses.
    """
    kernel = np.array([1.0, -2.0, 1.0])
    filled = np.where(np.isfinite(image), image, np.nan).astype(float)
    rough = convolve1d(convolve1d(filled, kernel, axis=0), kernel, axis=1)[1:-1, 1:-1]
    use = np.isfinite(rough)
    if np.count_nonzero(use) < 100:
        return float("nan"), float("nan")
    smooth = gaussian_filter(np.where(np.isfinite(filled), filled, np.nanmedian(filled)), 2.0)[1:-1, 1:-1]
    use &= smooth <= np.median(smooth[use])
    variance = float((1.4826 * np.median(np.abs(rough[use]))) ** 2) / float((kernel**2).sum()) ** 2
    return variance, float(filled[1:-1, 1:-1][use].mean())


def scatter_over_variance(image: np.ndarray, variance: np.ndarray, bad: np.ndarray) -> float:
    """Return how much more the pixels scatter than their variance says.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels and their variances.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to leave out.

    Returns
    -------
    ratio : `float`
        Variance of the differences of pixels some columns apart, which the sky and the correlation of
        neighbours leave alone, over the sum of their variances; from the median, which sources hardly
        touch. NaN where there are fewer than 100 differences.
    """
    rows = slice(None, None, max(1, image.shape[0] * image.shape[1] // _N_DIFFERENCES))
    first, second = np.s_[rows, :-_COLUMNS_APART], np.s_[rows, _COLUMNS_APART:]
    with np.errstate(invalid="ignore"):
        good = ~bad & np.isfinite(image) & np.isfinite(variance) & (variance > 0)
    use = good[first] & good[second]
    if np.count_nonzero(use) < 100:
        return float("nan")
    difference = image[second][use].astype(float) - image[first][use]
    scaled = difference / np.sqrt(variance[first][use].astype(float) + variance[second][use])
    return float((1.4826 * np.median(np.abs(scaled))) ** 2)


def neighbour_correlation(image: np.ndarray, sky: SkyModel, bad: np.ndarray) -> float:
    """Return the correlation of the noise of neighbouring pixels.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels; not finite ones are left out.
    sky : `SkyModel`
        Their sky. What stands above it is left out, with all within four pixels.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to leave out.

    Returns
    -------
    correlation : `float`
        Mean of those along x and y: 0 for white noise, more in an image that was resampled or smoothed;
        NaN without enough sky.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (image - sky.level) / sky.sigma
    usable = np.isfinite(values) & ~bad
    values = np.where(usable, values, 0.0)
    # Smoothed, so that faint sources are seen and the noise of single pixels is not.
    sources = gaussian_filter(values, 2.0) > _SOURCE_LEVEL
    usable &= ~binary_dilation(sources | (values > 5.0), iterations=4)
    correlations = []
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        both = usable[here] & usable[there]
        if np.count_nonzero(both) < 1000:
            return float("nan")
        correlations.append(np.corrcoef(values[here][both], values[there][both])[0, 1])
    return float(np.mean(correlations))


# Height of a source after smoothing with a Gaussian of two pixels, in standard deviations of a pixel: about
# five of its own for white noise, two and a half where neighbours are correlated by a half.
_SOURCE_LEVEL = 0.7


def _cell_edges(size: int, mesh: int) -> np.ndarray:
    """Return the edges of equal cells close to ``mesh`` pixels wide."""
    return np.linspace(0, size, max(1, round(size / mesh)) + 1).round().astype(int)


def _clipped_statistics(values: np.ndarray, n_sigma: float, n_cell: int) -> tuple[float, float]:
    """Return the mode and the standard deviation of what iterative clipping leaves.

    The mode is estimated as 2.5 median - 1.5 mean where the two are close, the median where they are not
    (Bertin & Arnouts 1996, doi:10.1051/aas:1996164). NaN for a cell that sources fill.
    """
    for _ in range(10):
        middle = np.median(values)
        width = 1.4826 * np.median(np.abs(values - middle)) or values.std()
        keep = np.abs(values - middle) <= n_sigma * width
        if keep.all():
            break
        values = values[keep]
    if values.size < 0.5 * _MIN_GOOD_FRACTION * n_cell:
        return np.nan, np.nan
    mean, middle, width = values.mean(), np.median(values), values.std()
    crowded = abs(mean - middle) > 0.3 * width
    return float(middle if crowded else 2.5 * middle - 1.5 * mean), float(width / _CUT_GAUSSIAN_STD)


def _fill_nearest(cells: np.ndarray) -> np.ndarray:
    missing = np.isnan(cells)
    if not missing.any():
        return cells
    rows, columns = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return cells[rows, columns]


def _linear_weights(edges: np.ndarray, size: int) -> np.ndarray:
    """Return the matrix ``(size, cells)`` of linear interpolation between the centres of cells."""
    centres = (edges[1:] + edges[:-1] - 1) / 2
    unit = np.eye(len(centres))
    return np.stack([np.interp(np.arange(size), centres, row) for row in unit], axis=1)
