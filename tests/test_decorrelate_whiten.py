"""The whitening filter: noise becomes white, fluxes and positions stay, the PSF follows."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lsst.twinkles.diffim.algorithms.decorrelate import whiten as whiten_module
from lsst.twinkles.diffim.algorithms.decorrelate.whiten import Whitener, source_variance, whiten
from lsst.twinkles.diffim.algorithms.noise import NoiseMap
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.subtract.matched import convolve_kernel

SHAPE = (512, 540)
SETTINGS = {"workers": 1, "side": 200, "tolerance": 1e-7}
SIZE = 21


def gaussians(size, sigmas):
    v, u = np.mgrid[:size, :size] - size // 2
    stamps = np.exp(-(u**2 + v**2) / (2 * np.asarray(sigmas, float).reshape(-1, 1, 1) ** 2))
    return stamps / stamps.sum(axis=(1, 2), keepdims=True)


def constant_kernel(sigma, total):
    stamp = total * gaussians(SIZE, sigma)
    return lambda x, y: np.repeat(stamp, len(x), axis=0)


def varying_kernel(total):
    """A kernel of constant sum that is half as wide again at the other end."""
    return lambda x, y: total * gaussians(SIZE, 1.2 + 0.6 * np.asarray(x) / SHAPE[1])


def noise_map(left, right=None):
    right = left if right is None else right
    return NoiseMap(values=np.array([[left, right]], float), x=np.array([0.0, SHAPE[1] - 1.0]), y=np.zeros(1))


def simulate(whitener, seed):
    """Return a difference of pure noise: target minus convolved image."""
    rng = np.random.default_rng(seed)
    target, convolved = (
        (rng.normal(size=SHAPE) * np.sqrt(noise.image(SHAPE))).astype("f4")
        for noise in (whitener.target, whitener.convolved)
    )
    return target - convolve_kernel(convolved, whitener.kernel, size=SIZE, side=200, workers=1)


CASES = {
    "constant": Whitener(constant_kernel(1.5, 1.0), noise_map(40.0), noise_map(40.0), 1.0),
    "flux scale": Whitener(constant_kernel(2.0, 1.4), noise_map(40.0), noise_map(30.0), 1.4),
    "noisy template": Whitener(constant_kernel(1.5, 1.0), noise_map(10.0), noise_map(90.0), 1.0),
    "varying": Whitener(varying_kernel(0.8), noise_map(40.0, 60.0), noise_map(80.0, 40.0), 0.8),
}


def autocorrelation(image, dy, dx):
    a = image[dy:, dx:] if dx >= 0 else image[dy:, :dx]
    b = image[: image.shape[0] - dy, : image.shape[1] - dx] if dx >= 0 else image[: image.shape[0] - dy, -dx:]
    return float((a * b).mean() / (image**2).mean())


@pytest.mark.parametrize("name", CASES)
def test_noise_becomes_white_and_its_variance_is_as_claimed(name):
    whitener = CASES[name]
    difference = simulate(whitener, seed=1)
    claimed = whitener.sky_image(SHAPE)
    white = whiten(difference, whitener, **SETTINGS) / np.sqrt(claimed)
    raw = (difference / difference.std())[20:-20, 20:-20]
    inner = white[20:-20, 20:-20]
    # 236 000 pixels: a standard error of 0.002 on a correlation, and of 0.3 percent on the variance.
    lags = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (0, 3), (0, 5)]
    assert max(abs(autocorrelation(inner, *lag)) for lag in lags) < 0.01
    assert autocorrelation(raw, 0, 1) > 0.02  # what was there to be removed
    assert inner.var() == pytest.approx(1.0, abs=0.01)
    # And everywhere: quarters of the image along x, 0.6 percent each.
    for part in np.array_split(inner, 4, axis=1):
        assert part.var() == pytest.approx(1.0, abs=0.02)
        assert abs(autocorrelation(part, 0, 1)) < 0.016


def wild_kernel(x, y):
    """A kernel whose power at high frequencies grows towards two corners, as an overfitted one's."""
    sharp = gaussians(SIZE, 0.5) - gaussians(SIZE, 1.5)
    slope = (np.asarray(x) / SHAPE[1] + np.asarray(y) / SHAPE[0] - 1.0)[:, None, None]
    return gaussians(SIZE, 1.5) + 2.0 * slope * sharp


@pytest.mark.parametrize(("limit", "white"), [(None, True), (np.inf, False)])
def test_tiles_shrink_where_the_kernel_varies_much(monkeypatch, limit, white):
    if limit is not None:
        monkeypatch.setattr(whiten_module, "_LARGEST_ERROR", limit)
    whitener = Whitener(wild_kernel, noise_map(40.0), noise_map(40.0), 1.0)
    difference = simulate(whitener, seed=2)
    image = whiten(difference, whitener, workers=1, side=512, tolerance=1e-6)
    white_image = (image / np.sqrt(whitener.sky_image(SHAPE)))[20:-20, 20:-20]
    assert max(abs(autocorrelation(white_image, *lag)) for lag in ((0, 1), (1, 0), (1, 1))) < 0.01
    # Means of unlike filters let less noise pass than each.
    assert bool(abs(white_image.var() - 1.0) < 0.02) is white


def test_filter_is_that_of_dmtn_021():
    whitener = CASES["flux scale"]
    side = 64
    filters, kernels = whitener.filters(np.array([10.0]), np.array([20.0]), side)
    frequency = np.meshgrid(np.fft.rfftfreq(side), np.fft.fftfreq(side))
    # The transform of a Gaussian of sigma 2, and equation 4.
    kernel = 1.4 * np.exp(-2 * np.pi**2 * 2.0**2 * (frequency[0] ** 2 + frequency[1] ** 2))
    truth = np.sqrt((40 + 30 * 1.4**2) / (40 + 30 * kernel**2))
    np.testing.assert_allclose(filters[0], truth, atol=2e-5)
    assert filters[0, 0, 0] == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(np.abs(kernels[0]), kernel, atol=2e-5)


def test_a_template_without_noise_needs_no_whitening():
    whitener = Whitener(constant_kernel(1.5, 1.0), noise_map(40.0), noise_map(0.0), 1.0)
    stamp = whitener.stamps(x=np.zeros(1), y=np.zeros(1), size=11)[0]
    expected = np.zeros((11, 11))
    expected[5, 5] = 1.0
    np.testing.assert_allclose(stamp, expected, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_flux_position_and_psf_of_a_source(name):
    whitener = CASES[name]
    stamp = gaussians(41, 1.9)[0]
    psf = whitener.apply_to_psf(
        PsfGrid.constant(stamp),
        x=np.linspace(0, SHAPE[1] - 1, 9),
        y=np.array([0.0, SHAPE[0] - 1.0]),
        size=41,
    )
    np.testing.assert_allclose(psf.stamps.sum(axis=(2, 3)), 1.0, atol=1e-9)
    flux = 1e4
    # One at a corner of the tiles, one within, one near the rim.
    for x, y in ((200, 200), (333, 240), (30, 480)):
        image = np.zeros(SHAPE, "f4")
        cut = np.s_[y - 20 : y + 21, x - 20 : x + 21]
        image[cut] = flux * stamp
        white = whiten(image, whitener, **SETTINGS)
        assert white.sum(dtype=float) == pytest.approx(flux, rel=1e-3)
        assert abs((white * (np.arange(SHAPE[1]) - x)).sum(dtype=float)) / flux < 0.02
        assert abs((white.T * (np.arange(SHAPE[0]) - y)).sum(dtype=float)) / flux < 0.02
        predicted = flux * psf.evaluate(x=float(x), y=float(y))
        assert np.abs(white[cut] - predicted).max() < 1e-3 * predicted.max()
        # The PSF has changed: the raw one would be seen to be wrong.
        assert np.abs(predicted - flux * stamp).max() > 0.01 * predicted.max()


def test_extent_holds_the_filter():
    whitener = CASES["noisy template"]
    extents = [whitener.extent(x=100.0, y=100.0, tolerance=t) for t in (1e-2, 1e-4, 1e-6)]
    assert extents == sorted(extents) and extents[0] < extents[-1] < 64
    for half, tolerance in zip(extents, (1e-2, 1e-4, 1e-6), strict=True):
        whole = whitener.stamps(x=np.array([100.0]), y=np.array([100.0]), size=127)[0]
        inner = whole[63 - half : 64 + half, 63 - half : 64 + half]
        assert (inner**2).sum() >= (1 - 1.1 * tolerance) * (whole**2).sum()


def test_claimed_variance_is_the_sum_on_one_flux_scale():
    whitener = CASES["flux scale"]
    np.testing.assert_allclose(whitener.sky_image((5, 6)), 40 + 1.4**2 * 30, rtol=1e-6)


@pytest.mark.parametrize("follows", [False, True])
def test_variance_plane_of_a_crowded_field(follows):
    """Where most pixels have light in them, faint light counts, and dark places have less than the median."""
    rng = np.random.default_rng(4)
    light = np.zeros(SHAPE)
    n = light.size // 25
    y, x = (rng.integers(0, extent, n) for extent in SHAPE)
    np.add.at(light, (y, x), 2.0 * math.pi * 4.0 * rng.lognormal(4.5, 1.2, n))
    true = 100.0 + gaussian_filter(light, 2.0, mode="wrap")
    variance = true + (rng.normal(0, np.sqrt(true)) if follows else 0.0)
    median = float(np.median(variance))
    bad = np.zeros(SHAPE, bool)
    excess = source_variance(variance.astype("f4"), noise_map(median), bad)
    ratio = (median + excess) / true
    assert median > 1.5 * np.percentile(true, 5)
    low, high = np.percentile(ratio, (5, 95))
    assert low > 0.75
    assert high < 1.5  # beside bright stars, whose light is smoothed
    dark = true < np.percentile(true, 10)
    assert np.median(ratio[dark]) == pytest.approx(1.0, abs=0.15)


def test_sources_in_a_variance_plane():
    rng = np.random.default_rng(2)
    sky = noise_map(100.0)
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]]
    source = 400.0 * np.exp(-((u - 200) ** 2 + (v - 300) ** 2) / (2 * 6.0**2))
    variance = 100.0 + source + rng.normal(0, 2, SHAPE)  # a plane that follows the pixels' own noise
    bad = np.zeros(SHAPE, bool)
    bad[100, 100] = True
    variance[100, 100] = np.inf
    excess = source_variance(variance.astype("f4"), sky, bad)
    blank = np.hypot(u - 200, v - 300) > 40
    assert np.isfinite(excess).all() and (excess[blank] != 0).mean() < 0.01
    near = np.hypot(u - 200, v - 300) < 10
    np.testing.assert_allclose(excess[near], source[near], atol=0.06 * 400)  # smoothed over 5 pixels
