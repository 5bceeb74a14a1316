"""Displaced stars: what is measured of them, and what the significance image makes of them."""

import numpy as np
import pytest

from lsst.twinkles.diffim.algorithms.detect.score import significance_image
from lsst.twinkles.diffim.algorithms.match.star_offsets import (
    StarOffsets,
    kernel_centroids,
    measure_star_offsets,
)
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

SHAPE, SIGMA, NOISE = (400, 420), 2.0, 10.0


def gaussian(x, y, shape=SHAPE, sigma=SIGMA):
    v, u = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def draw(places, flux):
    image = np.zeros(SHAPE)
    for (x, y), f in zip(places, flux, strict=True):
        x0, y0 = round(x) - 15, round(y) - 15
        image[y0 : y0 + 31, x0 : x0 + 31] += f * gaussian(x - x0, y - y0, (31, 31))
    return image


def make(jitter, *, n=64, flux=2e5, seed=2, flux_error=0.0):
    """Return science image, difference, central pixels and true offsets of stars on a grid."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n))
    grid = np.stack(np.meshgrid(np.linspace(30, 380, side), np.linspace(30, 360, side)), -1).reshape(-1, 2)
    places = grid + rng.uniform(-0.5, 0.5, grid.shape)
    true = rng.normal(0, jitter, places.shape) if jitter else np.zeros(places.shape)
    f = np.full(len(places), flux)
    science = draw(places + true, f)
    difference = science - (1 - flux_error) * draw(places, f) + rng.normal(0, NOISE, SHAPE)
    return science, difference, np.round(places).astype(int), true


def measure(science, difference, pixels):
    psf = PsfGrid.constant(gaussian(12, 12, (25, 25)))
    variance, bad = np.full(SHAPE, NOISE**2), np.zeros(SHAPE, bool)
    return measure_star_offsets(
        science, difference, variance, bad,
        psf_image=psf, psf_difference=psf, x=pixels[:, 0], y=pixels[:, 1], half=8,
    )  # fmt: skip


@pytest.mark.parametrize("flux_error", [0.0, 0.02])
def test_offsets_and_their_errors_are_true(flux_error):
    science, difference, pixels, true = make(0.05, flux_error=flux_error)
    offsets = measure(science, difference, pixels)
    # Error of a coordinate of a Gaussian star: noise times sigma**2 sqrt(8 pi) / flux.
    assert offsets.error == pytest.approx(NOISE * SIGMA**2 * np.sqrt(8 * np.pi) / 2e5, rel=0.1)
    for found, expected in ((offsets.dx, true[:, 0]), (offsets.dy, true[:, 1])):
        # What is displaced is the light of the template, fainter by the error of the flux scale.
        pulls = (found - (1 - flux_error) * expected) / offsets.error
        assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls)) and pulls.std() == pytest.approx(1.0, abs=0.25)


def test_scatter_is_found_and_noise_is_none():
    assert measure(*make(0.0)[:3]).scatter() == 0.0
    assert measure(*make(0.03)[:3]).scatter() == pytest.approx(0.03, rel=0.35)
    for seed in range(3, 13):
        assert measure(*make(0.0, flux=3e3, seed=seed)[:3]).scatter() == 0.0


def test_too_few_stars_tell_nothing():
    values = np.array([0.0, 1.0, -1.0, 0.5, np.nan])
    assert StarOffsets(values, values, np.full(5, 0.01)).scatter() == 0.0
    empty = measure(np.zeros(SHAPE), np.zeros(SHAPE), np.zeros((0, 2), int))
    assert len(empty.dx) == 0 and empty.scatter() == 0.0


def test_a_star_without_pixels_has_no_offset():
    science, difference, pixels, _ = make(0.0, n=16)
    psf, bad = PsfGrid.constant(gaussian(12, 12, (25, 25))), np.zeros(SHAPE, bool)
    bad[pixels[3, 1] - 9 : pixels[3, 1] + 10, pixels[3, 0] - 9 : pixels[3, 0] + 10] = True
    offsets = measure_star_offsets(
        science, difference, np.full(SHAPE, NOISE**2), bad,
        psf_image=psf, psf_difference=psf, x=pixels[:, 0], y=pixels[:, 1], half=8,
    )  # fmt: skip
    assert np.flatnonzero(~np.isfinite(offsets.error)).tolist() == [3]


def test_centroids_of_kernels():
    kernels = np.stack([gaussian(10.3, 9.8, (21, 21), 1.5), 3 * gaussian(10, 10, (21, 21), 1.5)])
    dx, dy = kernel_centroids(kernels)
    np.testing.assert_allclose(dx, [0.3, 0.0], atol=1e-3)
    np.testing.assert_allclose(dy, [-0.2, 0.0], atol=1e-3)


def test_displaced_stars_are_noise_and_transients_are_not():
    jitter = 0.05
    science, difference, pixels, _ = make(jitter, seed=4)
    x, y, flux = 205.0, 55.0, 2000.0  # between the stars
    difference = difference + flux * gaussian(x, y)
    options = {"min_coverage": 0.5, "side": 128}
    args = (
        difference,
        np.full(SHAPE, NOISE**2),
        np.zeros(SHAPE, bool),
        PsfGrid.constant(gaussian(12, 12, (25, 25))),
    )
    plain = significance_image(*args, **options)
    noisy = significance_image(*args, light=science, jitter=jitter, **options)
    near = np.zeros(SHAPE, bool)
    for px, py in pixels:
        near[py - 15 : py + 16, px - 15 : px + 16] = True
    # Dipoles of five percent of a pixel, at a signal-to-noise ratio of 2800: tens of sigma without it.
    assert np.abs(plain[near]).max() > 20
    assert np.abs(noisy[near]).max() < 6
    np.testing.assert_allclose(noisy[near].std(), 1.0, atol=0.25)
    expected = flux / (NOISE * SIGMA * np.sqrt(4 * np.pi))
    assert noisy[55, 205] == pytest.approx(expected, abs=3) and noisy[55, 205] > 20
    far = ~near
    np.testing.assert_allclose(noisy[far], plain[far], atol=0.35)
    np.testing.assert_array_equal(significance_image(*args, light=science, jitter=0.0, **options), plain)
