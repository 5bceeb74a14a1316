"""Second sources under one peak are found, and single sources stay single."""

import numpy as np
import pytest
from point_scenes import ERROR, FIT, FWHM, NOISE, PSF, lattice, scene, weights, with_noise

from lsst.twinkles.diffim.algorithms.measure.psf_fit import fit_point_sources
from lsst.twinkles.diffim.algorithms.measure.split import split_sources

SPLIT = {
    "half": 10, "fwhm": FWHM, "link": 2 * FWHM, "most": 12, "min_snr": 10.0, "min_gain": 25.0,
    "min_separation": 0.4 * FWHM, "max_separation": 1.5 * FWHM, "min_flux_ratio": 0.1, "model_error": 0.01,
    "iterations": 40,
}  # fmt: skip


def split(image, x, y):
    weight = weights(image.shape)
    fits = fit_point_sources(image, weight, PSF, x=np.round(x), y=np.round(y), **FIT)
    return split_sources(image, weight, PSF, fits, **SPLIT)


def pairs(snr, ratio, *, n=14, separation=0.8, seed=1, sign=1.0):
    """Pairs of sources in all directions; where the light is, and what both are."""
    x, y = lattice(n, 48, seed)
    angle = np.random.default_rng(seed + 1).uniform(0, 2 * np.pi, n * n)
    dx, dy = (0.5 * separation * FWHM * f(angle) for f in (np.cos, np.sin))
    flux = np.column_stack([np.ones(n * n), np.full(n * n, ratio)]) * snr * ERROR * sign
    places = np.stack([np.column_stack([x - dx, x + dx]), np.column_stack([y - dy, y + dy])])
    shape = (48 * n, 48 * n)
    image = sum(scene(shape, *places[:, :, k], flux[:, k]) for k in (0, 1))
    light = (places * flux).sum(axis=2) / flux.sum(axis=1)
    return with_noise(image, seed + 2), light, places, flux


@pytest.mark.parametrize(("snr", "ratio", "sign"), [(20, 1.0, 1.0), (40, 0.4, -1.0)])
def test_two_images_of_a_quasar_come_back_with_their_fluxes(snr, ratio, sign):
    image, light, places, flux = pairs(snr, ratio, sign=sign)
    found = split(image, *light)
    assert len(found) >= 0.99 * len(flux)
    fits = fit_point_sources(image, weights(image.shape), PSF, x=found.x.ravel(), y=found.y.ravel(), **FIT)
    true_x, true_y = (np.repeat(p[found.parent], 2, axis=0) for p in places)
    nearest = np.hypot(fits.x[:, None] - true_x, fits.y[:, None] - true_y).argmin(axis=1)
    rows = np.arange(len(nearest))
    expected = np.repeat(flux[found.parent], 2, axis=0)[rows, nearest]
    pulls = (fits.flux - expected) / fits.flux_error
    # Both fluxes of a pair err in opposite senses: as many independent values as pairs.
    assert abs(pulls.mean()) < 4 / np.sqrt(len(found))
    assert pulls.std() == pytest.approx(1.0, abs=0.15)
    assert np.mean(fits.flux / expected) == pytest.approx(1.0, abs=0.01)
    for here, there, error in (
        (fits.x, true_x[rows, nearest], fits.x_error),
        (fits.y, true_y[rows, nearest], fits.y_error),
    ):
        assert np.std((here - there) / error) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("snr", [20, 300])
def test_single_sources_are_not_split(snr):
    x, y = lattice(20, 40, seed=5)
    image = with_noise(scene((800, 800), x, y, snr * ERROR), seed=snr)
    assert len(split(image, x, y)) < 0.01 * len(x)


def test_a_psf_that_is_a_little_too_narrow_splits_nothing():
    x, y = lattice(12, 40, seed=6)
    image = with_noise(scene((480, 480), x, y, 200 * ERROR, sigma=1.8 * 1.01), seed=7)
    assert len(split(image, x, y)) == 0


def test_a_companion_of_the_other_sign_is_left_to_the_dipole_fit():
    x, y = lattice(8, 48, seed=8)
    image = scene((384, 384), x, y, 40 * ERROR) - scene((384, 384), x + 0.8 * FWHM, y, 40 * ERROR)
    assert len(split(with_noise(image, seed=9), x, y)) == 0


def test_neighbours_that_are_known_are_not_found_again():
    n = 8
    x, y = lattice(n, 48, seed=10)
    x2 = x + 1.2 * FWHM
    image = scene((48 * n, 48 * n), np.r_[x, x2], np.r_[y, y], 50 * ERROR)
    assert len(split(with_noise(image, seed=11), np.r_[x, x2], np.r_[y, y])) == 0


def test_nothing_to_split():
    found = split(np.zeros((60, 60)) + NOISE, np.zeros(0), np.zeros(0))
    assert len(found) == 0 and found.x.shape == (0, 2)
