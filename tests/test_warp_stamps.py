"""Shifted and warped stamps: analytic images, and what interpolation must leave alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.twinkles.diffim.algorithms.warp.stamps import (
    Stamp,
    add_stamps,
    shift_stamp,
    split_position,
    warp_stamp,
)

SIGMA = 2.2
LANCZOS_ERROR = 3e-3  # of the peak: the window's ripple, which does not vanish for smooth images


def gaussian(size=31, *, x=0.0, y=0.0, covariance=None):
    """Unit-sum samples of a Gaussian; the middle pixel is (0, 0)."""
    half = size // 2
    v, w = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    inverse = np.linalg.inv(SIGMA**2 * np.eye(2) if covariance is None else covariance)
    dx, dy = w - x, v - y
    image = np.exp(-0.5 * (inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2))
    return Stamp(image / image.sum(), -half, -half)


@given(position=st.floats(-1e4, 1e4))
def test_split_position(position):
    pixel, fraction = split_position(position)
    assert -0.5 <= fraction < 0.5 and pixel + fraction == pytest.approx(position, abs=1e-9)


@pytest.mark.parametrize("dx, dy", [(0.3, -0.2), (-0.5, 0.49), (0.0, 0.25), (-0.01, 0.0)])
def test_shift_moves_a_gaussian(dx, dy):
    shifted = shift_stamp(gaussian(), dx=dx, dy=dy)
    expected = gaussian(x=dx, y=dy).array
    np.testing.assert_allclose(shifted.array, expected, atol=LANCZOS_ERROR * expected.max())


def test_no_shift_changes_nothing():
    stamp = gaussian()
    assert shift_stamp(stamp, dx=0.0, dy=0.0) is stamp


@pytest.mark.parametrize("angle, scale", [(0.0, 1.0), (0.7, 1.0), (0.3, 0.8)])
def test_warp_transforms_a_gaussian(angle, scale):
    """The width of a warped Gaussian is that of the inverse transform."""
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) + np.array(
        [[0.0, 0.1], [0.0, 0.0]]
    )
    source = gaussian(41, x=0.3, y=-0.4)
    warped = warp_stamp(source, matrix, np.array([0.3, -0.4]), order=5, cache_size=0)
    assert warped.array.sum() == pytest.approx(1.0)
    height, width = warped.array.shape
    assert (-warped.x0, -warped.y0) == (width // 2, height // 2)
    inverse = np.linalg.inv(matrix)
    expected = gaussian(25, covariance=SIGMA**2 * inverse @ inverse.T).array
    middle = np.s_[height // 2 - 12 : height // 2 + 13, width // 2 - 12 : width // 2 + 13]
    np.testing.assert_allclose(
        warped.array[middle] / warped.array[middle].sum(), expected, atol=LANCZOS_ERROR * expected.max()
    )


def test_warp_onto_the_same_grid_returns_the_stamp():
    stamp = gaussian(31)
    warped = warp_stamp(stamp, np.eye(2), np.zeros(2), order=3, cache_size=0)
    np.testing.assert_allclose(warped.array, stamp.array, atol=1e-15)


def test_bilinear_warp_is_linear_interpolation():
    stamp = gaussian(31)
    warped = warp_stamp(stamp, np.eye(2), np.array([0.25, 0.0]), order=1, cache_size=0, bilinear=True)
    row = stamp.array[15]
    expected = 0.75 * row[1:-1] + 0.25 * row[2:]
    np.testing.assert_allclose(
        warped.array[15, 1:-1] / warped.array[15].sum(), expected / row.sum(), atol=1e-9
    )


def test_cache_rounds_positions_to_the_middle_of_its_steps():
    """With ten steps a pixel a shift by 0.31 is one by 0.35."""
    stamp = gaussian(31)
    rounded = warp_stamp(stamp, np.eye(2), np.array([0.31, 0.0]), order=3, cache_size=10)
    exact = warp_stamp(stamp, np.eye(2), np.array([0.35, 0.05]), order=3, cache_size=0)
    np.testing.assert_allclose(rounded.array, exact.array, atol=1e-12)


def test_mean_of_stamps_lies_on_the_box_of_all():
    small, large = gaussian(5), gaussian(9)
    mean = add_stamps([small, large], [1.0, 3.0])
    assert mean.array.shape == (9, 9) and (mean.x0, mean.y0) == (-4, -4)
    expected = 0.75 * large.array
    expected[2:7, 2:7] += 0.25 * small.array
    np.testing.assert_allclose(mean.array, expected)


def test_stamp_without_a_sum_is_refused():
    with pytest.raises(ValueError, match="has to be positive and finite"):
        Stamp(np.zeros((3, 3)), -1, -1).normalised()
