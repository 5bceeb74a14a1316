"""Trailed sources: length, direction and flux, with true errors."""

import numpy as np
import pytest
from point_scenes import ERROR, FIT, FWHM, NOISE, PSF, SIGMA, lattice, weights
from scipy.special import erf

from lsst.twinkles.diffim.algorithms.measure.psf_fit import fit_point_sources
from lsst.twinkles.diffim.algorithms.measure.shapes import measure_adaptive_moments
from lsst.twinkles.diffim.algorithms.measure.trail import fit_trail_sources

N = 8
STEP = 60
SHAPE = (N * STEP, N * STEP)


def veres(x, y, flux, length, angle):
    """The model of Veres et al. (2012), equation 3: a Gaussian along a line, by error functions."""
    image = np.zeros(SHAPE)
    for a, b, f, long, t in zip(x, y, flux, length, angle, strict=True):
        i, j = round(a), round(b)
        rows, cols = np.mgrid[max(0, j - 28) : j + 29, max(0, i - 28) : i + 29]
        rows, cols = rows[rows[:, 0] < SHAPE[0]], cols[rows[:, 0] < SHAPE[0]]
        u = (cols - a) * np.cos(t) + (rows - b) * np.sin(t)
        v = -(cols - a) * np.sin(t) + (rows - b) * np.cos(t)
        s = np.sqrt(2) * SIGMA
        profile = (erf((u + long / 2) / s) - erf((u - long / 2) / s)) / (2 * long)
        value = f * profile * np.exp(-(v**2) / (2 * SIGMA**2)) / (np.sqrt(2 * np.pi) * SIGMA)
        inside = (cols < SHAPE[1]) & (rows < SHAPE[0])
        np.add.at(image, (rows[inside], cols[inside]), value[inside])
    return image


def trails(seed, snr):
    rng = np.random.default_rng(seed)
    x, y = lattice(N, STEP, seed)
    length, angle = rng.uniform(1.3, 2.8, N * N) * FWHM, rng.uniform(-np.pi / 2, np.pi / 2, N * N)
    flux = rng.choice([-1, 1], N * N) * snr * ERROR
    return x, y, flux, length, angle


def fit(image, x, y, noise=NOISE):
    weight = weights(SHAPE, noise)
    fits = fit_point_sources(image, weight, PSF, x=np.round(x), y=np.round(y), **FIT)
    moments = measure_adaptive_moments(
        image, weight, PSF, fits, half=14, sigma=SIGMA, max_shift=FWHM, iterations=100
    )
    return fit_trail_sources(
        image,
        weight,
        PSF,
        fits,
        moments,
        half=18,
        min_significance=4.0,
        min_length=FWHM,
        max_length=4 * FWHM,
        iterations=30,
    )


def test_trails_without_noise_are_those_of_veres():
    x, y, flux, length, angle = trails(1, 50)
    result = fit(veres(x, y, flux, length, angle), x, y, noise=1.0)
    assert result.fitted.all()
    np.testing.assert_allclose(result.flux, flux, rtol=2e-3)
    np.testing.assert_allclose(np.hypot(result.dx, result.dy), length, rtol=5e-3)
    np.testing.assert_allclose(result.x, x, atol=0.01)
    np.testing.assert_allclose(result.y, y, atol=0.01)
    turn = np.arctan2(result.dy, result.dx) - angle
    np.testing.assert_allclose(np.sin(turn), 0, atol=2e-3)


def test_pulls_of_trails():
    x, y, flux, length, angle = trails(2, 60)
    image = veres(x, y, flux, length, angle)
    result = fit(image + np.random.default_rng(3).normal(0, NOISE, SHAPE), x, y)
    assert result.fitted.mean() > 0.95
    sign = np.sign(np.cos(np.arctan2(result.dy, result.dx) - angle))
    truth = {
        "flux": flux, "x": x, "y": y, "dx": sign * length * np.cos(angle), "dy": sign * length * np.sin(angle)
    }  # fmt: skip
    for name, values in truth.items():
        pulls = ((getattr(result, name) - values) / getattr(result, f"{name}_error"))[result.fitted]
        assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls)), name
        assert pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pulls))), name


def test_point_sources_are_not_tried():
    rng = np.random.default_rng(4)
    x, y = lattice(N, STEP, 5)
    image = veres(x, y, np.full(N * N, 30 * ERROR), np.full(N * N, 1e-3), np.zeros(N * N))
    result = fit(image + rng.normal(0, NOISE, SHAPE), x, y)
    assert result.tried.mean() < 0.05
    assert np.isnan(result.flux[~result.tried]).all() and (result.n_pixels[~result.tried] == 0).all()
