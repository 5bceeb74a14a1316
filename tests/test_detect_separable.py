"""Kernels as sums of products of a column and a row."""

import numpy as np
import pytest
from scipy.ndimage import correlate as slow_correlate

from lsst.twinkles.diffim.algorithms.detect.separable import correlate, separate


def tilted(side, sigma=2.0, tilt=0.4):
    """A Gaussian elongated along the diagonal, with a ring: not a product of a column and a row."""
    y, x = np.mgrid[-(side // 2) : side // 2 + 1, -(side // 2) : side // 2 + 1]
    square = (x**2 + y**2 - 2 * tilt * x * y) / sigma**2
    return np.exp(-0.5 * square) * (1 - 0.1 * square)


@pytest.mark.parametrize("side", [7, 25, 31])
def test_correlation_is_that_of_the_kernel_of_each_tile(side):
    rng = np.random.default_rng(side)
    image = rng.normal(size=(70, 95)).astype("f4")
    kernels = np.stack([tilted(side, 2.0 + 0.1 * k) for k in range(6)]).reshape(2, 3, side, side)
    found = correlate(image, separate(kernels, tile=40, tolerance=1e-6))
    for j in range(2):
        for i in range(3):
            tile = np.s_[40 * j : 40 * j + 40, 40 * i : 40 * i + 40]
            truth = slow_correlate(image.astype(float), kernels[j, i], mode="constant")[tile]
            np.testing.assert_allclose(found[tile], truth, atol=3e-5 * np.abs(truth).max())


@pytest.mark.parametrize("tolerance", [3e-2, 3e-3, 1e-4])
def test_what_is_left_out_is_below_the_tolerance(tolerance):
    kernels = np.stack([tilted(41, 2.0), tilted(41, 2.5, -0.3)])[None]
    parts = separate(kernels, tile=100, tolerance=tolerance)
    rim = (parts.columns.shape[-1] - 41) // 2
    images = np.pad(parts.images(), [(0, 0)] * 2 + [(max(-rim, 0),) * 2] * 2)
    images = images[
        :, :, max(rim, 0) : images.shape[2] - max(rim, 0), max(rim, 0) : images.shape[3] - max(rim, 0)
    ]
    error = np.sqrt(((images - kernels) ** 2).sum(axis=(2, 3)) / (kernels**2).sum(axis=(2, 3)))
    assert (error < 1.5 * tolerance).all()
    # One product less would not have been enough.
    values = np.linalg.svd(kernels)[1]
    rest = np.sqrt((values[..., parts.columns.shape[2] - 1 :] ** 2).sum(axis=-1) / (values**2).sum(axis=-1))
    assert (rest > 0.9 * tolerance).any()


def test_a_product_needs_one_factor():
    profile = np.exp(-0.5 * np.arange(-10, 11) ** 2 / 4.0)
    parts = separate((profile[:, None] * profile)[None, None], tile=50, tolerance=1e-5)
    assert parts.columns.shape == (1, 1, 1, 15) or parts.columns.shape == (1, 1, 1, 25)
