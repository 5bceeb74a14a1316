"""Polynomials over an image, transforms of stamps, convolution with filters that vary."""

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.fields import ChebyshevField
from scipy.signal import convolve2d

from lsst.twinkles.diffim.algorithms.convolve import convolve_varying, make_tile_grid
from lsst.twinkles.diffim.algorithms.fourier import stamps_from_transforms, transform_stamps
from lsst.twinkles.diffim.algorithms.spatial import (
    chebyshev_coefficients,
    chebyshev_image,
    chebyshev_orders,
    chebyshev_terms,
)
from lsst.twinkles.diffim.algorithms.subtract.matched import convolve_kernel


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_polynomials_are_those_of_lsst_images(order):
    shape = (40, 70)
    rng = np.random.default_rng(order)
    values = rng.normal(size=len(chebyshev_orders(order)))
    field = ChebyshevField(Box.from_shape(shape), chebyshev_coefficients(values, order))
    x, y = rng.uniform(-0.5, 69.5, 50), rng.uniform(-0.5, 39.5, 50)
    terms = chebyshev_terms(x=x, y=y, shape=shape, order=order)
    np.testing.assert_allclose(terms @ values, np.broadcast_to(field(x=x, y=y), 50), atol=1e-12)
    rows, cols = np.mgrid[:40, :70]
    pixels = chebyshev_terms(x=cols.ravel(), y=rows.ravel(), shape=shape, order=order) @ values
    np.testing.assert_allclose(
        chebyshev_image(values, shape=shape, order=order), pixels.reshape(shape), atol=1e-5
    )


def test_polynomial_terms_are_all_of_a_total_degree():
    orders = chebyshev_orders(3)
    assert len(orders) == 10 == len({tuple(o) for o in orders})
    assert (orders.sum(axis=1) <= 3).all() and tuple(orders[0]) == (0, 0)
    # The term after the constant is linear in y or x, and not both.
    np.testing.assert_array_equal(orders[1:3].sum(axis=1), 1)


@settings(max_examples=30, deadline=None)
@given(half=st.integers(0, 7), extra=st.integers(0, 5), count=st.integers(1, 3), seed=st.integers(0, 1 << 16))
def test_transforms_of_stamps_go_there_and_back(half, extra, count, seed):
    size = 2 * half + 1
    side = scipy.fft.next_fast_len(size + extra, real=True)
    stamps = np.random.default_rng(seed).normal(size=(count, size, size))
    transforms = transform_stamps(stamps, side)
    assert transforms.shape == (count, side, side // 2 + 1)
    np.testing.assert_allclose(transforms[:, 0, 0], stamps.sum(axis=(1, 2)), atol=1e-10)
    np.testing.assert_allclose(stamps_from_transforms(transforms, side, size), stamps, atol=1e-12)


def test_symmetric_stamp_has_a_real_transform():
    # The centre of the stamp is the origin: a symmetric stamp shifts nothing.
    stamp = np.outer([1, 4, 6, 4, 1], [1, 2, 5, 2, 1])[None].astype(float)
    assert np.abs(transform_stamps(stamp, 12).imag).max() < 1e-12


def test_stamp_larger_than_the_transform_is_refused():
    with pytest.raises(ValueError, match="Stamps of 9 pixels do not fit a transform of 8"):
        transform_stamps(np.zeros((1, 9, 9)), 8)


@settings(max_examples=40, deadline=None)
@given(ny=st.integers(1, 900), nx=st.integers(1, 900), halo=st.integers(1, 40), side=st.integers(16, 400))
def test_tiles_cover_the_image(ny, nx, halo, side):
    grid = make_tile_grid((ny, nx), halo=halo, side=side)
    assert grid.inner > 0 and grid.side == grid.inner + 2 * halo
    for starts, size in ((grid.y, ny), (grid.x, nx)):
        assert starts[0] == 0 and starts[-1] < size <= starts[-1] + grid.inner
        np.testing.assert_array_equal(np.diff(starts), grid.inner)


def constant_filter(kernel, grid):
    stamps = np.asarray(kernel, np.float32)[None]
    return lambda x, y: [np.repeat(transform_stamps(stamps, grid.side), len(x), axis=0)]


# Also images narrower than what a tile adds at their end.
@pytest.mark.parametrize("shape", [(90, 120), (60, 61), (25, 130), (131, 20)])
@pytest.mark.parametrize(("beyond", "boundary"), [("reflection", "symm"), ("zero", "fill")])
def test_constant_kernel_against_scipy(shape, beyond, boundary):
    rng = np.random.default_rng(1)
    image = rng.normal(size=shape).astype("f4")
    kernel = rng.normal(size=(9, 9))
    grid = make_tile_grid(shape, halo=5, side=64)
    result = convolve_varying([image], constant_filter(kernel, grid), grid, workers=1, beyond=beyond)
    truth = convolve2d(image.astype(float), kernel, mode="same", boundary=boundary)
    assert result.shape == shape and result.dtype == np.float32
    np.testing.assert_allclose(result, truth, atol=2e-5 * np.abs(truth).max())


def test_several_images_are_summed():
    rng = np.random.default_rng(2)
    images = [rng.normal(size=(50, 80)).astype("f4") for _ in range(2)]
    kernels = rng.normal(size=(2, 5, 5)).astype("f4")
    grid = make_tile_grid((50, 80), halo=3, side=32)

    def filters(x, y):
        return [np.repeat(transform_stamps(k[None], grid.side), len(x), axis=0) for k in kernels]

    result = convolve_varying(images, filters, grid, workers=1)
    truth = sum(convolve2d(i, k, mode="same", boundary="symm") for i, k in zip(images, kernels, strict=True))
    np.testing.assert_allclose(result, truth, atol=1e-4)


def gather(image, kernel_at, size):
    """Convolve pixel by pixel, each with the kernel of its own position."""
    half = size // 2
    padded = np.pad(image.astype(float), half, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    rows, cols = np.mgrid[: image.shape[0], : image.shape[1]]
    kernels = kernel_at(cols.ravel(), rows.ravel()).reshape(*image.shape, size, size)
    return np.einsum("yxji,yxji->yx", windows, kernels[:, :, ::-1, ::-1])


def polynomial_kernel(shape, order, size=7, seed=3):
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(len(chebyshev_orders(order)), size, size))

    def kernel_at(x, y):
        return np.tensordot(chebyshev_terms(x=x, y=y, shape=shape, order=order), parts, axes=1)

    return kernel_at


def test_linearly_varying_kernel_against_a_slow_reference():
    shape = (70, 90)
    image = np.random.default_rng(4).normal(size=shape).astype("f4")
    kernel_at = polynomial_kernel(shape, order=1)
    result = convolve_kernel(image, kernel_at, size=7, side=30, workers=1)
    truth = gather(image, kernel_at, 7)
    np.testing.assert_allclose(result, truth, atol=2e-5 * np.abs(truth).max())


def test_quadratically_varying_kernel_has_no_seams():
    # On a flat image the result is the sum of each pixel's kernel: between the corners of the
    # tiles it may only be wrong by the second derivative, and must not jump from tile to tile.
    shape, side = (96, 128), 40
    x, y = np.meshgrid(np.arange(128), np.arange(96))

    def amplitude(x, y):
        return 1.0 + 0.3 * ((x - 60) / 64) * ((y - 50) / 48) + 0.2 * ((x - 30) / 64) ** 2

    def kernel_at(x, y):
        stamps = np.zeros((len(x), 3, 3))
        stamps[:, 1, 1] = amplitude(x, y)
        return stamps

    result = convolve_kernel(np.ones(shape, "f4"), kernel_at, size=3, side=side, workers=1)
    inner = make_tile_grid(shape, halo=2, side=side).inner
    assert inner < 48  # several tiles along each axis
    curvature = 2 * 0.2 / 64**2  # of the parabola along x; the mixed term is bilinear, and exact
    truth = amplitude(x, y)
    # Linear interpolation of a parabola errs by at most h^2 / 8 times its second derivative.
    assert np.abs(result - truth).max() < inner**2 / 8 * curvature * 1.05 + 1e-5
    # The slope may break from tile to tile, by the second derivative times the tile: second differences.
    assert np.abs(np.diff(result, n=2, axis=1)).max() < inner * curvature * 1.05 + 1e-6
    assert np.abs(np.diff(result, n=2, axis=0)).max() < 1e-6


def test_weak_variation_within_the_tolerance_is_left_out():
    shape = (40, 64)
    image = np.random.default_rng(5).normal(size=shape).astype("f4")

    def filters_of(slope):
        def filters(x, y):
            stamps = np.zeros((len(x), 3, 3), np.float32)
            stamps[:, 1, 1] = 1.0 + slope * (x - 32) / 32
            return [transform_stamps(stamps, grid.side)]

        return filters

    grid = make_tile_grid(shape, halo=2, side=68)
    weak = convolve_varying([image], filters_of(0.05), grid, workers=1, tolerance=0.1)
    np.testing.assert_allclose(weak, image, rtol=2e-2)
    left_out = weak - image * (weak[0, 0] / image[0, 0])
    assert np.abs(left_out).max() < 1e-5  # constant within the tile
    exact = convolve_varying([image], filters_of(0.05), grid, workers=1)
    np.testing.assert_allclose(exact, image * (1 + 0.05 * (np.arange(64) - 32) / 32), atol=1e-5)
