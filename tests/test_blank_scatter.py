"""Scatter of blank sky, with and without sources on it."""

import numpy as np
import pytest

from lsst.twinkles.diffim.algorithms.blank_scatter import find_dark_pixels, measure_blank_scatter

SHAPE = (600, 700)


def noise(seed=1):
    return np.random.default_rng(seed).normal(0.3, 2.0, SHAPE).astype(np.float32)


def with_sources(pixels, n, peak, seed=2):
    v, u = np.mgrid[-10:11, -10:11]
    profile = np.exp(-(u**2 + v**2) / (2 * 2.0**2)).astype(np.float32)
    rng = np.random.default_rng(seed)
    for y, x, sign in zip(*rng.integers(10, 590, (2, n)), rng.choice([-1, 1], n), strict=True):
        pixels[y - 10 : y + 11, x - 10 : x + 11] += sign * peak * profile
    return pixels


def test_scatter_of_noise():
    # An interquartile range of 420 000 pixels is known to 0.13 percent.
    assert measure_blank_scatter(noise(), side=4, clip=3.5) == pytest.approx(2.0, rel=5e-3)


def test_sources_do_not_count():
    pixels = with_sources(noise(), 250, 60.0)
    lower, upper = np.percentile(pixels, (25, 75))
    assert 0.7413 * (upper - lower) > 2.08  # what it would be
    assert measure_blank_scatter(pixels, side=4, clip=3.5) == pytest.approx(2.0, rel=0.01)


def test_pixels_that_are_nan_do_not_count():
    pixels = noise()
    pixels[:, ::3] = np.nan
    pixels[100:333] = np.nan
    assert measure_blank_scatter(pixels[:501, :502], side=4, clip=3.5) == pytest.approx(2.0, rel=0.01)
    assert np.isnan(measure_blank_scatter(np.full((20, 30), np.nan), side=4, clip=3.5))


def test_sources_everywhere():
    pixels = with_sources(noise(), 6000, 60.0)
    assert np.isfinite(measure_blank_scatter(pixels, side=4, clip=3.5))


def test_dark_pixels_on_a_sky_that_is_steep():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / 600.0
    variance = 100.0 + 400.0 * x + 300.0 * y
    bright = np.zeros(SHAPE, bool)
    bright[200:215, 300:320] = bright[64:70, ::7] = True
    variance[bright] *= 1.6
    variance[400:500, 100:130] = np.nan
    dark = find_dark_pixels(variance, cell=(16, 64), ratio=1.25)
    assert not dark[bright].any() and not dark[400:500, 100:130].any()
    assert dark[~bright & np.isfinite(variance)].mean() > 0.9
