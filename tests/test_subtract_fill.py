"""Holes, masks spread by a kernel, light from beyond the rim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from scipy.signal import convolve2d

from lsst.twinkles.diffim.algorithms.fill_nb import fill_rows, scatter_kernel, spread_mask
from lsst.twinkles.diffim.algorithms.subtract.matched import rim_error, spread_bad
from lsst.twinkles.diffim.algorithms.subtract.prepare import fill_holes


def fill_slowly(image, bad, longest, other):
    out = image.astype(float).copy()
    for row, marks in zip(out, bad, strict=True):
        good = np.flatnonzero(~marks)
        for x in np.flatnonzero(marks):
            left, right = good[good < x], good[good > x]
            if len(left) and len(right) and right[0] - left[-1] - 1 <= longest:
                row[x] = np.interp(x, [left[-1], right[0]], [row[left[-1]], row[right[0]]])
            else:
                row[x] = other
    return out


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 16),
    share=st.floats(0, 1),
    longest=st.integers(0, 6),
    nx=st.integers(1, 20),
)
def test_rows_are_filled_as_by_the_definition(seed, share, longest, nx):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(4, nx)).astype("f4")
    bad = rng.uniform(size=image.shape) < share
    truth = fill_slowly(image, bad, longest, 7.0)
    fill_rows(0, len(image), image, bad, longest, np.float32(7.0))
    np.testing.assert_allclose(image, truth, atol=1e-6)


def test_filling_copies():
    image = np.array([[1.0, np.nan, 3.0]], "f4")
    np.testing.assert_allclose(fill_holes(image, np.isnan(image)), [[1, 2, 3]])
    assert np.isnan(image[0, 1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 16), share=st.floats(0, 0.3), n=st.integers(1, 9))
def test_spread_mask_is_a_dilation(seed, share, n):
    rng = np.random.default_rng(seed)
    bad = rng.uniform(size=(15, 18)) < share
    offsets = rng.integers(-4, 5, (n, 2))
    structure = np.zeros((9, 9), bool)
    structure[offsets[:, 0] + 4, offsets[:, 1] + 4] = True
    out = np.zeros_like(bad)
    spread_mask(0, len(bad), bad, offsets[:, 0], offsets[:, 1], out)
    np.testing.assert_array_equal(out, binary_dilation(bad, structure))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 16), n=st.integers(0, 12))
def test_scattered_kernels_are_a_convolution(seed, n):
    rng = np.random.default_rng(seed)
    image = np.zeros((14, 17))
    rows, cols = rng.integers(0, 14, n), rng.integers(0, 17, n)
    values = rng.normal(size=n).astype("f4")
    np.add.at(image, (rows, cols), values)
    kernel = rng.normal(size=(5, 5)).astype("f4")
    out = np.zeros(image.shape, "f4")
    scatter_kernel(rows, cols, values, kernel, out)
    np.testing.assert_allclose(out, convolve2d(image, kernel, mode="same"), atol=1e-5)


def gaussian(size, sigma, *, dx=0.0):
    v, u = np.mgrid[:size, :size] - size // 2
    kernel = np.exp(-((u - dx) ** 2 + v**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def test_bad_pixels_spread_over_the_share_of_the_kernel():
    kernel = gaussian(21, 2.0, dx=1.5)
    bad = np.zeros((60, 60), bool)
    bad[30, 30] = True
    spoilt = spread_bad(bad, kernel, level=0.1)
    expected = np.zeros((60, 60), bool)
    expected[20:41, 20:41] = np.abs(kernel) > 0.1 * np.abs(kernel).max()
    np.testing.assert_array_equal(spoilt, expected | bad)
    assert spoilt[30, 30]
    assert not spread_bad(np.zeros((9, 9), bool), kernel, level=0.1).any()


def test_all_of_a_kernel_can_spoil():
    bad = np.zeros((9, 9), bool)
    bad[4, 4] = True
    spoilt = spread_bad(bad, np.ones((3, 3)) / 9, level=0.5)
    np.testing.assert_array_equal(spoilt[3:6, 3:6], True)
    assert spoilt.sum() == 9


@pytest.mark.parametrize("place", [(0, 25), (59, 25), (30, 0), (30, 49)])
def test_rim_error_is_the_reflected_light(place):
    kernel = gaussian(9, 1.5, dx=0.7)
    image = np.zeros((60, 50), "f4")
    image[place] = 100.0
    inside = convolve2d(image, kernel, mode="same")
    with_reflection = convolve2d(image, kernel, mode="same", boundary="symm")
    error = rim_error(image, kernel)
    np.testing.assert_allclose(error, np.abs(with_reflection - inside), atol=1e-4)
    assert error.max() > 1.0 and error[8:-8, 8:-8].max() < 1e-4
