"""Stars that can serve as samples of the point-spread function."""

from __future__ import annotations

__all__ = ("StarSample", "find_psf_stars", "find_stars", "outshone_pixels")

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

_N_PEAKS = 3000
_N_ITERATIONS = 25
# Width in pixels of the Gaussian that images are smoothed with before peaks are sought.
_PEAK_SMOOTHING = 1.2


@dataclass(frozen=True)
class StarSample:
    """Isolated, unsaturated stars, brightest first.

    Attributes
    ----------
    x, y : `numpy.ndarray`, ``(N,)``
        Centroids in pixels.
    flux, snr : `numpy.ndarray`, ``(N,)``
        Flux within the matched Gaussian, in pixel units, and its ratio to the noise of the sky.
    sigma : `numpy.ndarray`, ``(N,)``
        Gaussian width in pixels.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    snr: np.ndarray
    sigma: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> StarSample:
        """Return the stars of an index or a boolean mask."""
        return StarSample(self.x[index], self.y[index], self.flux[index], self.snr[index], self.sigma[index])


def find_psf_stars(
    image: np.ndarray, sigma: np.ndarray, bad: np.ndarray, *, min_snr: float, half: int, n_max: int
) -> StarSample:
    """Find isolated stars with the size that most bright point-like objects share.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Sky-subtracted pixels, finite.
    sigma : `numpy.ndarray`, ``(Ny, Nx)``
        Standard deviation of a sky pixel.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels no star may touch (saturated, no data).
    min_snr : `float`
        Least signal-to-noise ratio.
    half : `int`
        Half the side of the stamps on which the stars are measured.
    n_max : `int`
        Largest number of stars.

    Returns
    -------
    stars : `StarSample`
        May be empty.
    """
    x, y, height = _find_peaks(image, sigma, half)
    if len(x) == 0:
        return StarSample(*(np.zeros(0) for _ in range(5)))
    clean = ~_touches(bad, x, y, max(half // 2, 3)) & _is_isolated(x, y, height, radius=half)
    stars, shape = _measure(image, sigma, x[clean], y[clean], half)
    good = (stars.snr >= min_snr) & (np.hypot(stars.x - x[clean], stars.y - y[clean]) < 1.5)
    stars, shape = stars.take(good), shape[good]
    stars = stars.take(_on_locus(stars, shape))
    return stars.take(np.argsort(-stars.snr)[:n_max])


def find_stars(
    image: np.ndarray, sigma: np.ndarray, bad: np.ndarray, *, min_snr: float, half: int, n_max: int
) -> StarSample:
    """Find compact sources whose positions can be measured, crowded or not, whatever their size.

    Parameters
    ----------
    image, sigma, bad : `numpy.ndarray`, ``(Ny, Nx)``
        As for `find_psf_stars`; pixels that are bad may not be next to the peak.
    min_snr : `float`
        Least signal-to-noise ratio.
    half : `int`
        Half the side of the stamps on which they are measured.
    n_max : `int`
        Largest number.

    Returns
    -------
    stars : `StarSample`
        Brightest first; may be empty.
    """
    x, y, _ = _find_peaks(image, sigma, half)
    if len(x) == 0:
        return StarSample(*(np.zeros(0) for _ in range(5)))
    clean = ~_touches(bad, x, y, 1)
    stars, _ = _measure(image, sigma, x[clean], y[clean], half)
    good = (stars.snr >= min_snr) & (np.hypot(stars.x - x[clean], stars.y - y[clean]) < 1.5)
    stars = stars.take(good)
    return stars.take(np.argsort(-stars.flux)[:n_max])


def outshone_pixels(
    image: np.ndarray, sigma: np.ndarray, stars: StarSample, *, half: int, noise: float
) -> np.ndarray:
    """Tell which pixels around stars hold the light of their neighbours.

    Parameters
    ----------
    image, sigma : `numpy.ndarray`, ``(Ny, Nx)``
        As for `find_psf_stars`.
    stars : `StarSample`
        Stars.
    half : `int`
        Half the side of the squares around their nearest pixels.
    noise : `float`
        Standard deviation of a pixel.

    Returns
    -------
    outshone : `numpy.ndarray`, ``(N, 2 half + 1, 2 half + 1)``, bool
        Where the other sources, taken for Gaussians as wide as the stars, have more than half the noise and
        a tenth of the star's own light.
    """
    width = float(np.median(stars.sigma))
    x, y, height = _find_peaks(image, sigma, 1)
    height = height * (1.0 + (_PEAK_SMOOTHING / width) ** 2)
    tree = cKDTree(np.stack([x, y], axis=1))
    offset = np.arange(-half, half + 1)
    outshone = np.zeros((len(stars), len(offset), len(offset)), dtype=bool)
    for k, centre in enumerate(np.stack([stars.x, stars.y], axis=1)):
        near = np.array(tree.query_ball_point(centre, 1.5 * half + 4.0 * width), dtype=int)
        if len(near) == 0:
            continue
        column, row = np.round(centre).astype(int)
        profiles = [
            np.exp(-((offset + start - at[:, None]) ** 2) / (2.0 * width**2))
            for start, at in ((row, y[near]), (column, x[near]))
        ]
        light = height[near][:, None, None] * profiles[0][:, :, None] * profiles[1][:, None, :]
        distance = np.hypot(x[near] - centre[0], y[near] - centre[1])
        own = distance < max(1.5, width)
        others = light[~own].sum(axis=0)
        outshone[k] = others > np.maximum(0.5 * noise, 0.1 * light[own].sum(axis=0))
    return outshone


def _find_peaks(image: np.ndarray, sigma: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return integer positions and smoothed heights of the brightest local maxima away from the rim."""
    smooth = gaussian_filter(image, _PEAK_SMOOTHING)
    noise = sigma / (2.0 * np.sqrt(np.pi) * _PEAK_SMOOTHING)
    peak = (smooth == maximum_filter(smooth, size=5)) & (smooth > 7.0 * noise)
    inner = np.zeros_like(peak)
    inner[half:-half, half:-half] = True
    y, x = np.nonzero(peak & inner)
    order = np.argsort(-smooth[y, x])[:_N_PEAKS]
    return x[order], y[order], smooth[y[order], x[order]]


def _touches(bad: np.ndarray, x: np.ndarray, y: np.ndarray, reach: int) -> np.ndarray:
    """Tell which positions have a bad pixel within a square of half-side ``reach``."""
    return maximum_filter(bad, size=2 * reach + 1)[y, x]


def _is_isolated(x: np.ndarray, y: np.ndarray, height: np.ndarray, *, radius: float) -> np.ndarray:
    """Tell which peaks have no neighbour of a tenth of their height within a radius."""
    tree = cKDTree(np.stack([x, y], axis=1))
    isolated = np.ones(len(x), dtype=bool)
    for a, b in tree.query_pairs(radius, output_type="ndarray"):
        isolated[a] &= height[b] < 0.1 * height[a]
        isolated[b] &= height[a] < 0.1 * height[b]
    return isolated


def _measure(
    image: np.ndarray, sigma: np.ndarray, x: np.ndarray, y: np.ndarray, half: int
) -> tuple[StarSample, np.ndarray]:
    """Match a circular Gaussian to each star by iterated weighted moments.

    For a Gaussian star of width s under a Gaussian weight of width w the weighted second moment m obeys
    1/m = 1/s^2 + 1/w^2; the weight is moved to the centroid and set to s until both agree.

    Returns
    -------
    stars : `StarSample`
        Measurements, one for each position.
    shape : `numpy.ndarray`, ``(N, 2)``
        Ellipticity components of the weighted moments.
    """
    offset = np.arange(-half, half + 1)
    stamps = image[y[:, None, None] + offset[:, None], x[:, None, None] + offset]
    dx, dy, width = np.zeros(len(x)), np.zeros(len(x)), np.full(len(x), 2.0)
    for _ in range(_N_ITERATIONS):
        u, v, light, total = _weighted(stamps, offset, dx, dy, width)
        dx = np.clip(dx + 2 * (light * u).sum((1, 2)) / total, -half, half)
        dy = np.clip(dy + 2 * (light * v).sum((1, 2)) / total, -half, half)
        moment = (light * (u**2 + v**2)).sum((1, 2)) / total / 2
        inverse = 1.0 / np.maximum(moment, 0.05) - 1.0 / width**2
        width = np.clip(1.0 / np.sqrt(np.maximum(inverse, 4.0 / half**2)), 0.5, half / 2)
    u, v, light, total = _weighted(stamps, offset, dx, dy, width)
    xx, yy, xy = ((light * term).sum((1, 2)) / total for term in (u * u, v * v, u * v))
    shape = np.stack([(xx - yy), 2 * xy], axis=1) / np.maximum(xx + yy, 1e-9)[:, None]
    noise = sigma[y, x] * np.sqrt(np.pi) * width  # root of the sum of the squared weights
    return StarSample(x=x + dx, y=y + dy, flux=2 * total, snr=total / noise, sigma=width), shape


def _weighted(
    stamps: np.ndarray, offset: np.ndarray, dx: np.ndarray, dy: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets from the centroid, light under the weight and its positive sum."""
    u = offset[None, None, :] - dx[:, None, None]
    v = offset[None, :, None] - dy[:, None, None]
    light = stamps * np.exp(-(u**2 + v**2) / (2 * width[:, None, None] ** 2))
    return u, v, light, np.maximum(light.sum((1, 2)), 1e-30)


def _on_locus(stars: StarSample, shape: np.ndarray) -> np.ndarray:
    """Tell which stars share the most common size and the median ellipticity of that size.

    The mode is sought among the better half, where stars are told apart best from galaxies; cosmic rays are
    smaller, galaxies and blends larger.
    """
    if len(stars) < 3:
        return np.ones(len(stars), dtype=bool)
    size = np.log(stars.sigma)
    mode = _half_sample_mode(size[stars.snr >= np.median(stars.snr)])
    near = np.abs(size - mode) < 0.15
    scatter = 1.4826 * np.median(np.abs(size[near] - np.median(size[near])))
    near &= np.abs(size - np.median(size[near])) < max(3.0 * scatter, 0.03)
    offset = np.hypot(*(shape - np.median(shape[near], axis=0)).T)
    return near & (offset < max(3.0 * float(np.median(offset[near])), 0.05))


def _half_sample_mode(values: np.ndarray) -> float:
    """Return the mode as the limit of ever shorter intervals that hold half of the sample."""
    values = np.sort(values)
    while len(values) > 2:
        n = (len(values) + 1) // 2
        start = int(np.argmin(values[n - 1 :] - values[: len(values) - n + 1]))
        values = values[start : start + n]
    return float(values.mean())
