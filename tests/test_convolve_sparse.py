"""Convolution of mostly empty images, smoothing of variance planes, convolution of a plane."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter
from scipy.signal import convolve2d, fftconvolve

from lsst.twinkles.diffim.algorithms.cells_nb import smooth_excess
from lsst.twinkles.diffim.algorithms.convolve_nb import add_scattered
from lsst.twinkles.diffim.algorithms.fourier import convolve_plane


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1 << 16), tile=st.integers(3, 20), half=st.integers(0, 4), filled=st.floats(0, 0.3)
)
def test_scattered_pixels_are_convolved_with_the_stamp_of_the_tile_they_reach(seed, tile, half, filled):
    rng = np.random.default_rng(seed)
    ny, nx, size = 17, 23, 2 * half + 1
    image = np.where(rng.uniform(size=(ny, nx)) < filled, rng.normal(size=(ny, nx)), 0.0).astype("f4")
    stamps = rng.normal(size=(-(-ny // tile), -(-nx // tile), size, size)).astype("f4")
    start = rng.normal(size=(ny, nx)).astype("f4")
    out = start.copy()
    add_scattered(0, stamps.shape[0] * stamps.shape[1], image, stamps, tile, out)
    expected = start.astype(float)
    for j in range(stamps.shape[0]):
        for i in range(stamps.shape[1]):
            cut = np.s_[j * tile : (j + 1) * tile, i * tile : (i + 1) * tile]
            expected[cut] += convolve2d(image, stamps[j, i], mode="same")[cut]
    np.testing.assert_allclose(out, expected, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 16), half=st.integers(0, 3), ny=st.integers(1, 12), nx=st.integers(1, 12))
def test_smoothed_excess_is_a_box_average(seed, half, ny, nx):
    rng = np.random.default_rng(seed)
    variance, sky = rng.uniform(1, 5, (2, ny, nx)).astype("f4")
    bad = rng.uniform(size=(ny, nx)) < 0.2
    variance[bad] = np.nan
    out = np.empty((ny, nx), "f4")
    for begin, end in ((0, ny // 2), (ny // 2, ny)):
        smooth_excess(begin, end, variance, sky, bad, half, out)
    excess = np.where(bad, 0.0, variance.astype(float) - sky)
    np.testing.assert_allclose(out, uniform_filter(excess, 2 * half + 1, mode="nearest"), atol=1e-4)


@pytest.mark.parametrize(("shape", "kernel"), [((30, 41), (5, 9)), ((7, 7), (7, 7)), ((12, 13), (1, 1))])
def test_convolution_of_a_plane(shape, kernel):
    rng = np.random.default_rng(1)
    image, kernel = rng.normal(size=shape), rng.normal(size=kernel)
    np.testing.assert_allclose(
        convolve_plane(image, kernel), fftconvolve(image, kernel, mode="same"), atol=1e-12
    )
