"""Resampling against analytic images, exact symmetries and drawn noise."""

import numpy as np
import pytest

from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.warp.pixel_map import PixelMap, map_nodes
from lsst.twinkles.diffim.algorithms.warp.resample import make_lanczos_table, resample_image, resample_psf

STEP = 16


def make_map(function, shape, step=STEP):
    x, y = map_nodes(shape, step=step)
    xx, yy = np.meshgrid(x, y)
    x_in, y_in = function(xx, yy)
    return PixelMap(x=x_in, y=y_in, step=step)


def warp(image, function, shape, *, variance=None, mask=None, order=3, significant_weight=0.01, **kwargs):
    return resample_image(
        image,
        np.ones_like(image) if variance is None else variance,
        np.zeros((*image.shape, 1), np.uint8) if mask is None else mask,
        pixel_map=make_map(function, shape),
        shape=shape,
        order=order,
        significant_weight=significant_weight,
        **kwargs,
    )


def gaussian(x, y, *, x0, y0, sigma, flux=1.0):
    return flux / (2 * np.pi * sigma**2) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))


def grid(shape):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return x, y


def test_lanczos_weights_against_the_definition():
    table = make_lanczos_table(3)
    assert table.shape == (1001, 6)
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    np.testing.assert_allclose(table[0], [0, 0, 1, 0, 0, 0], atol=1e-15)
    np.testing.assert_allclose(table[-1], [0, 0, 0, 1, 0, 0], atol=1e-15)
    d = np.array([2.25, 1.25, 0.25, -0.75, -1.75, -2.75])
    expected = 3 * np.sin(np.pi * d) * np.sin(np.pi * d / 3) / (np.pi * d) ** 2
    np.testing.assert_allclose(table[250], expected / expected.sum(), rtol=1e-12)


def test_shift_by_whole_pixels_is_exact():
    rng = np.random.default_rng(1)
    image, variance = rng.normal(size=(60, 70)).astype("f4"), rng.uniform(1, 2, (60, 70)).astype("f4")
    mask = rng.integers(0, 256, (60, 70, 2), dtype=np.uint8)
    result = warp(image, lambda x, y: (x + 5, y - 3), (60, 70), variance=variance, mask=mask)
    np.testing.assert_array_equal(result.image[3:, :-5], image[:-3, 5:])
    np.testing.assert_array_equal(result.variance[3:, :-5], variance[:-3, 5:])
    np.testing.assert_array_equal(result.mask[3:, :-5], mask[:-3, 5:])
    assert result.no_data[:3].all() and result.no_data[:, -5:].all()
    assert not result.no_data[3:, :-5].any()


def test_rotation_by_a_quarter_turn_is_exact():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(50, 40)).astype("f4")
    result = warp(image, lambda x, y: (39 - y, x), (40, 50))
    expected = np.array([[image[i, 39 - j] for i in range(50)] for j in range(40)])
    np.testing.assert_allclose(result.image, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("order", "limit"), [(3, 8e-3), (4, 3.5e-3), (5, 2.5e-3)])
def test_shifted_gaussian(order, limit):
    x, y = grid((64, 64))
    image = gaussian(x, y, x0=30.0, y0=33.0, sigma=2.0)
    result = warp(image, lambda x, y: (x + 0.4, y - 0.3), (64, 64), order=order)
    truth = gaussian(x, y, x0=29.6, y0=33.3, sigma=2.0)
    inner = np.s_[8:-8, 8:-8]
    assert np.abs(result.image - truth)[inner].max() < limit * truth.max()
    assert abs(result.image[inner].sum() - 1.0) < 1e-3


def test_flux_is_kept_under_rotation_and_scale():
    x, y = grid((101, 101))
    image = gaussian(x, y, x0=50.0, y0=50.0, sigma=3.0, flux=1000.0)
    angle = 0.5
    for scale in (0.8, 1.0, 1.6):
        c, s = scale * np.cos(angle), scale * np.sin(angle)

        def rotate(x, y, c=c, s=s):
            return 50 + c * (x - 50) - s * (y - 50), 50 + s * (x - 50) + c * (y - 50)

        result = warp(image, rotate, (101, 101))
        truth = gaussian(x, y, x0=50.0, y0=50.0, sigma=3.0 / scale, flux=1000.0)
        near = np.hypot(x - 50, y - 50) < 25
        assert abs(np.nansum(result.image[near]) - 1000.0) < 2.0
        assert np.nanmax(np.abs(result.image - truth)[near]) < 0.02 * truth.max()


def test_variance_is_that_of_the_pixels():
    rng = np.random.default_rng(3)
    variance = np.full((400, 400), 4.0, "f4")
    image = rng.normal(scale=2.0, size=(400, 400)).astype("f4")
    result = warp(image, lambda x, y: (x + 0.37, y + 0.5), (400, 400), variance=variance)
    inner = np.s_[5:-5, 5:-5]
    assert np.std(result.variance[inner]) < 1e-3
    # 150 000 pixels, correlated over a few: 1 percent is three standard deviations.
    assert np.var(result.image[inner]) == pytest.approx(result.variance[50, 50], rel=0.02)
    assert result.variance[50, 50] < 3.5


def test_masks_spread_over_significant_weights_only():
    image = np.zeros((40, 40), "f4")
    mask = np.zeros((40, 40, 1), np.uint8)
    mask[20, 20] = 4
    result = warp(image, lambda x, y: (x + 0.5, y), (40, 40), mask=mask, significant_weight=0.05)
    # Weights of a half-pixel shift: 0.61, -0.13 and 0.024; the last is below the limit.
    assert set(zip(*np.nonzero(result.mask[..., 0]), strict=True)) == {(20, 18), (20, 19), (20, 20), (20, 21)}
    assert set(np.unique(result.mask)) == {0, 4}


def test_pixels_without_data_make_no_data_where_they_weigh():
    image = np.ones((40, 40), "f4")
    image[20, 20] = np.nan
    result = warp(image, lambda x, y: (x + 0.5, y), (40, 40))
    hole = np.argwhere(result.no_data[:, 5:35])
    assert {tuple(p) for p in hole} == {(20, x - 5) for x in range(17, 23)}
    np.testing.assert_allclose(result.image[~result.no_data], 1.0, rtol=1e-6)


def test_infinity_and_invalid_pixels_do_not_leak():
    image = np.ones((30, 30), "f4")
    image[10, 10] = np.inf
    valid = np.ones((30, 30), bool)
    valid[20, 20] = False
    image[20, 20] = 1e6
    result = warp(image, lambda x, y: (x + 0.3, y + 0.2), (30, 30), valid=valid)
    np.testing.assert_allclose(result.image[~result.no_data], 1.0, rtol=1e-5)
    assert result.no_data[10, 10] and result.no_data[20, 20]


def test_smooth_distortion_is_followed_between_nodes():
    def distort(x, y):
        return x + 1e-5 * (x - 100) ** 2 + 0.2, y - 1e-5 * (y - 100) * (x - 100)

    pixel_map = make_map(distort, (200, 200))
    x, y = np.random.default_rng(4).uniform(0, 199, (2, 500))
    x_in, y_in = pixel_map.evaluate(x=x, y=y)
    truth = distort(x, y)
    # Largest error of linear interpolation: step^2 / 8 times the second derivative.
    bound = STEP**2 / 8 * 2e-5
    assert np.abs(x_in - truth[0]).max() <= bound * 1.001
    assert np.abs(y_in - truth[1]).max() <= bound * 1.001


def test_psf_turns_and_scales_with_the_image():
    y, x = np.mgrid[-20:21, -20:21].astype(float)
    stamp = np.exp(-(x**2 / (2 * 4.0**2) + y**2 / (2 * 2.5**2)))
    psf = PsfGrid.constant(stamp / stamp.sum())
    pixel_map = make_map(lambda x, y: (-1.25 * y + 200, 1.25 * x), (100, 100))
    result = resample_psf(psf, pixel_map, x=np.array([10.0, 80.0]), y=np.array([50.0]))
    assert result.stamps.shape[:2] == (1, 2)
    half = result.size // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    truth = np.exp(-(u**2 / (2 * 2.0**2) + v**2 / (2 * 3.2**2)))
    np.testing.assert_allclose(
        result.stamps[0, 1], truth / truth.sum(), atol=2e-3 * truth.max() / truth.sum()
    )


def test_map_needs_two_nodes_an_axis():
    with pytest.raises(ValueError, match="at least \\(2, 2\\)"):
        PixelMap(x=np.zeros((1, 4)), y=np.zeros((1, 4)), step=8)
    assert [len(nodes) for nodes in map_nodes((1, 33), step=16)] == [3, 2]
