"""Scenes of Gaussian sources on white noise, for tests of the measurement."""

import numpy as np

from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

SIGMA = 1.8
FWHM = 2.3548 * SIGMA
NOISE = 5.0
# Standard error of a PSF flux whose position is known, or free.
ERROR = np.sqrt(4 * np.pi) * SIGMA * NOISE
FIT = {"half": 10, "max_shift": FWHM, "link": 2 * FWHM, "most": 12, "iterations": 25, "rounds": 2}


def profile(shape, x, y, sigma=SIGMA):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    image = np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return image / (2 * np.pi * sigma**2)


PSF = PsfGrid.constant(profile((41, 41), 20, 20))


def scene(shape, x, y, flux, sigma=SIGMA):
    """Return Gaussians, drawn out to six times their width."""
    image = np.zeros(shape)
    for a, b, f, s in zip(x, y, *np.broadcast_arrays(flux, sigma, x)[:2], strict=True):
        j, i, reach = round(b), round(a), int(6 * s) + 2
        low, left = max(0, j - reach), max(0, i - reach)
        part = image[low : j + reach + 1, left : i + reach + 1]
        part += f * profile(part.shape, a - left, b - low, s)
    return image


def lattice(n, step, seed):
    """Positions at random fractions of a pixel on a lattice of n x n."""
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(*[np.arange(n) * step + step / 2] * 2))
    return x + rng.uniform(-0.5, 0.5, n * n), y + rng.uniform(-0.5, 0.5, n * n)


def with_noise(image, seed, noise=NOISE):
    return image + np.random.default_rng(seed).normal(0, noise, image.shape)


def weights(shape, noise=NOISE):
    return np.full(shape, 1 / noise**2)
