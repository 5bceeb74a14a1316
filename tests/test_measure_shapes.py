"""Adaptive moments and aperture fluxes against galsim, formulas and slow references."""

import galsim
import numpy as np
import pytest
from point_scenes import ERROR, FIT, FWHM, NOISE, PSF, SIGMA, lattice, scene, weights, with_noise

from lsst.twinkles.diffim.algorithms.measure.psf_fit import fit_point_sources
from lsst.twinkles.diffim.algorithms.measure.shapes import measure_adaptive_moments, measure_aperture_fluxes

MOMENTS = {"half": 14, "sigma": SIGMA, "max_shift": FWHM, "iterations": 100}


def fit(image, x, y, noise=NOISE):
    return fit_point_sources(image, weights(image.shape, noise), PSF, x=np.round(x), y=np.round(y), **FIT)


def test_moments_are_those_of_galsim():
    profiles = [
        galsim.Gaussian(sigma=2.6).shear(g1=0.2, g2=-0.1),
        galsim.Convolve(galsim.Exponential(half_light_radius=3.0), galsim.Gaussian(sigma=SIGMA)),
        galsim.Kolmogorov(fwhm=5.0).shear(g2=0.1),
    ]
    image = np.zeros((60, 180))
    x, y = 30.2 + 60 * np.arange(3), np.full(3, 29.7)
    for k, profile in enumerate(profiles):
        stamp = profile.withFlux(5000).drawImage(
            nx=59, ny=59, scale=1.0, method="no_pixel", offset=(0.2, 0.7)
        )
        image[:59, 60 * k + 1 : 60 * k + 60] += stamp.array
    fits = fit(image, x, y, noise=1.0)
    moments = measure_adaptive_moments(image, weights(image.shape), PSF, fits, **MOMENTS | {"half": 26})
    for k in range(3):
        cut = galsim.Image(np.ascontiguousarray(image[:59, 60 * k + 1 : 60 * k + 60]))
        expected = galsim.hsm.FindAdaptiveMom(cut)
        size = 2 * expected.moments_sigma**4  # determinant is sigma**4
        trace, shape = moments.xx[k] + moments.yy[k], expected.observed_shape
        assert moments.xx[k] * moments.yy[k] - moments.xy[k] ** 2 == pytest.approx(size / 2, rel=2e-3)
        assert (moments.xx[k] - moments.yy[k]) / trace == pytest.approx(shape.e1, abs=2e-3)
        assert 2 * moments.xy[k] / trace == pytest.approx(shape.e2, abs=2e-3)


def test_moments_of_point_sources_are_those_of_the_psf():
    x, y = lattice(6, 50, seed=1)
    sign = np.where(np.arange(36) % 2, -1, 1)
    image = with_noise(scene((300, 300), x, y, sign * 100 * ERROR), seed=2)
    moments = measure_adaptive_moments(image, weights(image.shape), PSF, fit(image, x, y), **MOMENTS)
    np.testing.assert_allclose(moments.psf_xx, SIGMA**2, rtol=1e-4)
    np.testing.assert_allclose(moments.psf_xy, 0, atol=1e-4)
    # The variance of a second moment at a signal-to-noise ratio of 100 is some 2 percent of it.
    for values in (moments.xx, moments.yy):
        assert np.mean(values) == pytest.approx(SIGMA**2, rel=0.02)
        assert np.std(values) < 0.05 * SIGMA**2


def test_a_neighbour_does_not_change_moments_and_apertures():
    x, y = np.array([50.0, 55.3]), np.array([40.2, 38.9])
    image = scene((90, 110), x, y, [900.0, 2500.0])
    fits = fit(image, x, y)
    moments = measure_adaptive_moments(image, weights(image.shape), PSF, fits, **MOMENTS)
    np.testing.assert_allclose(moments.xx, SIGMA**2, rtol=1e-3)
    fluxes = measure_aperture_fluxes(image, weights(image.shape), PSF, fits, radius=8.0)
    np.testing.assert_allclose(fluxes.flux / fluxes.psf_share, [900, 2500], rtol=1e-4)


def test_noise_has_no_moments_or_some_but_never_crashes():
    x, y = lattice(6, 50, seed=3)
    image = with_noise(np.zeros((300, 300)), seed=4)
    moments = measure_adaptive_moments(image, weights(image.shape), PSF, fit(image, x, y), **MOMENTS)
    assert np.isfinite(moments.psf_xx).all() and np.isnan(moments.xx).any()
    found = np.isfinite(moments.xx)
    assert (moments.xx[found] * moments.yy[found] > moments.xy[found] ** 2).all()


def test_aperture_of_a_gaussian():
    x, y = np.array([40.3, 90.0]), np.array([39.6, 40.0])
    image = scene((80, 130), x, y, [1000.0, -3000.0])
    fits = fit(image, x, y)
    for radius in (3.0, 6.5):
        fluxes = measure_aperture_fluxes(image, weights(image.shape), PSF, fits, radius=radius)
        inside = 1 - np.exp(-(radius**2) / (2 * SIGMA**2))
        # Shares of pixels taken as flat: some percent where the profile falls steeply at the rim.
        np.testing.assert_allclose(fluxes.flux, [1000 * inside, -3000 * inside], rtol=0.02)
        # What a point source has beyond is taken in the same way.
        np.testing.assert_allclose(fluxes.flux / fluxes.psf_share, [1000, -3000], rtol=1e-4)
        # Pixels on the rim count by the squares of their shares, less than their area.
        np.testing.assert_allclose(fluxes.error, NOISE * np.sqrt(np.pi) * radius, rtol=0.08)
        assert (fluxes.error < NOISE * np.sqrt(np.pi) * radius).all()
        assert not fluxes.n_missing.any()


def test_aperture_fluxes_and_their_pulls():
    x, y = lattice(12, 40, seed=5)
    image = with_noise(scene((480, 480), x, y, 60 * ERROR), seed=6)
    fluxes = measure_aperture_fluxes(image, weights(image.shape), PSF, fit(image, x, y), radius=12.0)
    pulls = (fluxes.flux / fluxes.psf_share - 60 * ERROR) / (fluxes.error / fluxes.psf_share)
    assert abs(pulls.mean()) < 4 / 12 and pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * 144))


def test_aperture_over_the_rim_and_over_a_mask():
    x, y = np.array([3.0, 60.0, 100.0]), np.array([30.0, 30.0, 30.0])
    image = scene((60, 130), x, y, 2000.0)
    weight = weights(image.shape)
    weight[28:31, 63] = 0.0
    fits = fit_point_sources(image, weight, PSF, x=x, y=y, **FIT)
    fluxes = measure_aperture_fluxes(image, weight, PSF, fits, radius=8.0)
    assert fluxes.n_missing[1] == 3 and fluxes.n_missing[0] > 20 and fluxes.n_missing[2] == 0
    np.testing.assert_allclose(fluxes.flux / fluxes.psf_share, 2000.0, rtol=1e-3)
