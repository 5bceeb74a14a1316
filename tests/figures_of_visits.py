"""Figures of exposures with Gaussian PSFs, for tests of the choice of templates."""

import numpy as np

from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.select.depth import psf_power
from lsst.twinkles.diffim.algorithms.select.figures import VisitFigures

FWHM_PER_SIGMA = 2.354820045


def gaussian_stamp(sigma, size=51):
    """Return a unit-sum Gaussian that is integrated over nothing: samples at pixel centres."""
    r = np.arange(size) - size // 2
    line = np.exp(-0.5 * (r / sigma) ** 2)
    stamp = np.outer(line, line)
    return stamp / stamp.sum()


def square_corners(*, x=0.0, y=0.0, side=0.01, flip=False):
    """Return the corners of a square on the sky near (1, 0, 0), in units of radian."""
    xs = np.array([0, 1, 1, 0]) * side + x
    ys = np.array([0, 0, 1, 1]) * side + y
    corners = np.column_stack([np.ones(4), -xs if flip else xs, ys])
    return corners / np.linalg.norm(corners, axis=1, keepdims=True)


def make_figures(visit=1, *, sigma=2.0, noise=30.0, scale=2.0, band="r", mjd=None, detector=94, corners=None):
    """Return figures of an exposure; noise in nJy a pixel, scale in nJy per unit."""
    psf = PsfGrid.constant(gaussian_stamp(sigma))
    return VisitFigures(
        visit=visit,
        detector=detector,
        band=band,
        mjd=60000.0 + visit if mjd is None else mjd,
        fwhm=FWHM_PER_SIGMA * sigma,
        pixel_scale=0.2,
        variance=(noise / scale if np.isfinite(scale) else noise) ** 2,
        scale=scale,
        corners=square_corners() if corners is None else corners,
        power=psf_power(psf),
    )
