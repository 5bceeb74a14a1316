"""Orders of the spatial variation: what stars decide, and what PSF models where stars cannot."""

import numpy as np
import pytest
from matching_stars import BASIS, SHAPE

from lsst.twinkles.diffim.algorithms.match.match import _following
from lsst.twinkles.diffim.algorithms.match.prior import prior_misfit, psf_prior_system
from lsst.twinkles.diffim.algorithms.match.solve import model_misfits
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

SIDE = 64


def gaussian(sigma, size=25):
    r = np.arange(size) - size // 2
    stamp = np.exp(-0.5 * (r / sigma) ** 2)
    return np.outer(stamp, stamp) / stamp.sum() ** 2


def pseudo_stars(widths):
    """Of a PSF of 1.5 pixels to be matched to one whose width changes along x."""
    ny, nx = SHAPE
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5)))
    stamps = np.array([[gaussian(width) for width in widths]])
    target = PsfGrid(stamps=stamps, x=np.linspace(0, nx - 1, len(widths)), y=np.zeros(1))
    none = np.ones((2, len(x), SIDE, SIDE // 2 + 1))
    return psf_prior_system(
        PsfGrid.constant(gaussian(1.5)), target, x=x, y=y, basis=BASIS, filters=none, side=SIDE
    )


def misfits(widths):
    prior = pseudo_stars(widths)
    return model_misfits(prior, n_basis=len(BASIS), shape=SHAPE, orders=(0, 1, 2)), prior_misfit(prior)


def test_a_psf_that_does_not_vary_asks_for_no_order():
    found, least = misfits([2.5, 2.5])
    assert found == pytest.approx(least, rel=1e-3)


def test_what_a_kernel_that_does_not_vary_leaves():
    found, least = misfits([2.4, 2.6])
    # The PSF is linear in x between its ends, and so is the best kernel.
    assert found[1:] == pytest.approx(least, rel=0.05)
    # Half the difference of the ends times the rms of a coordinate of five points from -1 to 1.
    change = 0.5 * (gaussian(2.6) - gaussian(2.4)) * np.sqrt(0.5)
    expected = np.sqrt((change**2).sum() / (gaussian(2.5) ** 2).sum())
    assert np.sqrt(found[0] ** 2 - least**2) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("left", "scatter", "kept"),
    [
        ([0.02, 0.003, 0.002], 0.02, (0, 1, 2)),  # as the models say: the stars tell
        ([0.02, 0.003, 0.002], 0.04, (1, 2)),  # stars off their places outweigh it
        ([0.002, 0.001, 0.001], 0.04, (0, 1, 2)),  # nothing to follow
        ([0.05, 0.03, 0.028], 0.2, (0, 1, 2)),  # the basis is at fault, not the order
        ([0.1, 0.04, 0.015], 0.2, (2,)),
    ],
)
def test_models_decide_where_stars_scatter(left, scatter, kept):
    assert _following((0, 1, 2), np.array(left), scatter) == kept
