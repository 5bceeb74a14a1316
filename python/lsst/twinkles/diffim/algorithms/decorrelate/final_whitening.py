"""A last, compact filter that whitens what correlation the noise of a difference is seen to have.

The filters of a subtraction take the noise of their inputs for white. That of images which were resampled or
smoothed before is not, and no variance plane tells it; blank sky does.
"""

from __future__ import annotations

__all__ = (
    "FinalWhitening",
    "find_blank_noise",
    "level_noise",
    "measure_autocorrelation",
    "solve_final_whitening",
    "take_stripes",
    "whiten_psf",
)

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from ..psf_grid import PsfGrid

_SIDE = 64  # of the transforms of a compact filter
_LEAST_POWER = 0.05  # of white noise: a resampling that has left less at some frequency cannot be undone
_LEAST_SHARE = 0.5  # of the sum of correlations that may be left where the level of the sky is taken out
# Stripes that a large image is looked at in.
_N_STRIPES = 4


@dataclass(frozen=True)
class FinalWhitening:
    """A filter and what it is made from.

    Attributes
    ----------
    kernel : `numpy.ndarray`, ``(2 R + 1, 2 R + 1)``
        Symmetric filter of unit sum, so that fluxes stay.
    variance_factor : `float`
        Variance of a pixel of the whitened image over that of the image.
    autocorrelation : `numpy.ndarray`, ``(2 L + 1, 2 L + 1)``
        Correlation of the noise before, at lags -L to L in y and x; 1 in the middle.
    error : `float`
        Standard deviation of an element of it, if the noise is white.
    n_pixels : `int`
        Pixels of blank sky that it was measured on.
    """

    kernel: np.ndarray
    variance_factor: float
    autocorrelation: np.ndarray
    error: float
    n_pixels: int

    @property
    def largest(self) -> float:
        """Largest correlation, of either sign, of two different pixels (`float`)."""
        values = self.autocorrelation.ravel()
        return float(np.abs(np.delete(values, len(values) // 2)).max())

    def apply(self, image: np.ndarray, skip: np.ndarray) -> np.ndarray:
        """Convolve an image.

        Parameters
        ----------
        image : `numpy.ndarray`, ``(Ny, Nx)``
            Image.
        skip : `numpy.ndarray`, ``(Ny, Nx)``, bool
            Pixels that count as zero for the others and keep their value; those not finite have to be.

        Returns
        -------
        whitened : `numpy.ndarray`, ``(Ny, Nx)``, float32
        """
        from scipy.signal import fftconvolve  # slow to import, and seldom needed

        result = fftconvolve(np.where(skip, 0.0, image), self.kernel, mode="same").astype(np.float32)
        result[skip] = image[skip]
        return result


def find_blank_noise(
    image: np.ndarray,
    variance: np.ndarray,
    masked: np.ndarray,
    *,
    largest_ratio: float,
    sigma: float,
    threshold: float,
    grow: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels of a difference that show nothing but sky, and their noise.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Difference, and its variance; pixels where either is not finite are not used.
    masked : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels not to use.
    largest_ratio : `float`
        Pixels of more than so many times the median variance show the light of sources.
    sigma, threshold : `float`
        What stands out, smoothed with a Gaussian of this width in pixels, by so many times the scatter.
    grow : `int`
        Pixels by which all that is not blank is grown.

    Returns
    -------
    noise : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels over their errors, with a median of zero, where they are blank.
    blank : `numpy.ndarray`, ``(Ny, Nx)``, bool
        The pixels.
    """

    def grown(pixels: np.ndarray) -> np.ndarray:
        # Zero iterations would be taken for as many as it takes.
        return ndimage.binary_dilation(pixels, iterations=grow) if grow else pixels

    usable = np.isfinite(image) & np.isfinite(variance) & (variance > 0)
    if not usable.any():
        return np.zeros(image.shape), usable
    light = variance > largest_ratio * np.median(variance[usable])
    blank = ~grown(~usable | light | masked)
    if not blank.any():
        return np.zeros(image.shape), blank
    noise = np.where(blank, image, 0.0) / np.sqrt(np.where(blank, variance, 1.0))
    noise = np.where(blank, noise - np.median(noise[blank]), 0.0)
    smooth = ndimage.gaussian_filter(noise, sigma)
    scatter = 1.4826 * np.median(np.abs(smooth[blank]))
    return noise, blank & ~grown(np.abs(smooth) > threshold * scatter)


def level_noise(noise: np.ndarray, blank: np.ndarray, *, side: int) -> tuple[np.ndarray, float]:
    """Take out of the noise of blank sky what varies slowly.

    Sky, haloes of bright stars and the light of unresolved ones that are left in a difference make all pixels
    of a place alike. In correlations that looks as noise with nothing but its lowest frequencies would.

    Parameters
    ----------
    noise, blank : `numpy.ndarray`, ``(Ny, Nx)``
        As `find_blank_noise` returns them.
    side : `int`
        Side in pixels of the squares whose mean is taken out.

    Returns
    -------
    noise : `numpy.ndarray`, ``(Ny, Nx)``
        Noise without it; zero where the sky is not blank.
    loss : `float`
        What the products of pixels, at any lag, have lost on the average, over the sum of the covariances of
        a pixel with all others: one over the number of pixels in a mean.
    """
    total, share = (
        ndimage.uniform_filter(a, side, mode="constant")
        for a in (np.where(blank, noise, 0.0), blank.astype(float))
    )
    # Running sums leave rounding errors where there is nothing.
    share = np.maximum(share, 1.0 / side**2)
    return np.where(blank, noise - total / share, 0.0), float(np.mean(1.0 / (share[blank] * side**2)))


def take_stripes(
    image: np.ndarray, variance: np.ndarray, masked: np.ndarray, *, max_pixels: int, seam: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return stripes of rows all over an image, one above the other, where it is larger than is needed.

    Parameters
    ----------
    image, variance, masked : `numpy.ndarray`, ``(Ny, Nx)``
        An image and what belongs to it.
    max_pixels : `int`
        Pixels that are enough; images of up to twice as many are returned as they are.
    seam : `int`
        Rows at both edges of each stripe that are masked, so that nothing is learnt across them.
    """
    ny, nx = image.shape
    height = max(max_pixels // (_N_STRIPES * nx), 4 * seam + 1)
    if image.size <= 2 * max_pixels or _N_STRIPES * height >= ny:
        return image, variance, masked
    starts = np.linspace(0, ny - height, _N_STRIPES).astype(int)
    rows = np.concatenate([np.arange(start, start + height) for start in starts])
    at_edge = np.zeros(height, dtype=bool)
    at_edge[:seam] = at_edge[height - seam :] = True
    return image[rows], variance[rows], masked[rows] | np.tile(at_edge, _N_STRIPES)[:, None]


def measure_autocorrelation(noise: np.ndarray, blank: np.ndarray, *, largest_lag: int) -> np.ndarray:
    """Return the correlation of the pixels of blank sky.

    Parameters
    ----------
    noise : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels over their errors, with a mean of zero.
    blank : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to look at; the others may be anything.
    largest_lag : `int`
        Largest lag L.

    Returns
    -------
    correlation : `numpy.ndarray`, ``(2 L + 1, 2 L + 1)``
        Mean product of the pairs of blank pixels at each lag, over the mean square.
    """
    shape = [fft.next_fast_len(n + largest_lag, real=True) for n in noise.shape]
    values, there = (fft.rfft2(a, shape) for a in (np.where(blank, noise, 0.0), blank.astype(float)))
    products, pairs = (_lags(fft.irfft2(np.abs(a) ** 2, shape), largest_lag) for a in (values, there))
    correlation = products / np.maximum(pairs.round(), 1.0)
    return correlation / correlation[largest_lag, largest_lag]


def solve_final_whitening(
    noise: np.ndarray, blank: np.ndarray, *, largest_lag: int, half: int, level_size: int | None = None
) -> FinalWhitening:
    """Find the filter that makes the noise white.

    Parameters
    ----------
    noise, blank, largest_lag
        As for `measure_autocorrelation`.
    half : `int`
        Half side R of the filter.
    level_size : `int`, optional
        Side in pixels of squares whose mean is no noise (see `level_noise`).

    Returns
    -------
    whitening : `FinalWhitening`
        The filter ``P^(-1/2)`` of the power spectrum P, that of the correlations up to the largest lag.
    """
    loss = 0.0
    if level_size is not None:
        noise, loss = level_noise(noise, blank, side=level_size)
    correlation = measure_autocorrelation(noise, blank, largest_lag=largest_lag)
    if loss:
        # All lags have lost as much, and so has the sum that tells it.
        correlation += loss * correlation.sum() / max(1.0 - loss * correlation.size, _LEAST_SHARE)
        correlation /= correlation[largest_lag, largest_lag]
    padded = np.zeros((_SIDE, _SIDE))
    padded[: 2 * largest_lag + 1, : 2 * largest_lag + 1] = correlation
    power = fft.fft2(np.roll(padded, (-largest_lag, -largest_lag), axis=(0, 1))).real
    kernel = fft.ifft2(np.maximum(power, _LEAST_POWER) ** -0.5).real
    kernel = np.roll(kernel, (half, half), axis=(0, 1))[: 2 * half + 1, : 2 * half + 1]
    total = float(kernel.sum())
    n = int(np.count_nonzero(blank))
    return FinalWhitening(kernel / total, total**-2, correlation, float(n**-0.5), n)


def whiten_psf(psf: PsfGrid, kernel: np.ndarray) -> PsfGrid:
    """Return the PSF of a filtered image, on stamps that are larger by the filter."""
    from scipy.signal import fftconvolve

    half = kernel.shape[0] // 2
    stamps = np.pad(psf.stamps, ((0, 0), (0, 0), (half, half), (half, half)))
    stamps = fftconvolve(stamps, kernel[None, None], mode="same", axes=(2, 3))
    return PsfGrid(stamps=stamps / stamps.sum(axis=(2, 3), keepdims=True), x=psf.x, y=psf.y)


def _lags(array: np.ndarray, largest: int) -> np.ndarray:
    """Return the lags -L to L of a periodic array."""
    return np.roll(array, (largest, largest), axis=(0, 1))[: 2 * largest + 1, : 2 * largest + 1]
