"""Bleed trails, interpolated holes, and what they may be wrong by."""

import numpy as np
import pytest
from small_pairs import NJY, make_pair

from lsst.twinkles.diffim.algorithms.subtract.doubt import Doubt
from lsst.twinkles.diffim.algorithms.subtract.prepare import (
    doubt_interpolation,
    fill_bleed_trails,
    fill_holes,
)
from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

SIGMA = 2.0


def gaussian(shape, x, y, sigma=SIGMA):
    v, u = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))


def psf():
    stamp = gaussian((41, 41), 20, 20)
    return stamp / stamp.sum()


def saturated_star(*, turned=False, radius=4):
    """A star ten times too bright in the middle, with a trail three pixels wide along y."""
    light = 1e5 * gaussian((120, 60), 30, 60)
    v, u = np.mgrid[:120, :60]
    core = np.hypot(u - 30, v - 60) <= radius
    trail = (abs(u - 30) <= 1) & (abs(v - 60) <= 45)
    image = np.where(core | trail, 1e4, light).astype("f4")
    mask = core | trail
    return (image.T.copy(), mask.T.copy(), core.T) if turned else (image, mask, core)


@pytest.mark.parametrize("turned", [False, True])
def test_trails_are_interpolated_and_cores_stay(turned):
    image, mask, core = saturated_star(turned=turned)
    doubt = fill_bleed_trails(image, mask, psf())
    trail = mask & ~core
    far = trail & (np.abs(np.indices(image.shape)[1 if turned else 0] - 60) > 15)
    assert far.sum() == 3 * 60
    np.testing.assert_allclose(image[far], 0.0, atol=1.0)  # no light of the star so far out
    assert (image[core] == 1e4).all()
    values = np.zeros(image.shape)
    values[doubt.rows, doubt.cols] = doubt.values
    assert (values[core] == 1e4).all() and values[far].max() < 1.0
    assert not values[~mask].any()


def test_a_core_that_is_barely_saturated_is_no_trail():
    image = (2e4 * gaussian((60, 60), 30, 30)).astype("f4")
    mask = image > 1e4
    mask |= np.roll(mask, 2, 1) | np.roll(mask, -2, 1)  # masks are wider than what is saturated
    before = image.copy()
    fill_bleed_trails(image, mask, psf())
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("place", ["rim", "wide"])
def test_runs_without_two_neighbours_are_left_alone(place):
    image = np.zeros((20, 80), "f4")
    mask = np.zeros(image.shape, bool)
    mask[5:16, slice(0, 6) if place == "rim" else slice(20, 60)] = True
    image[mask] = 1e4
    doubt = fill_bleed_trails(image, mask, psf())
    # Along y it is interpolated all the same.
    assert (image[mask] == 0).all() and doubt.values.max() == 0
    mask[:] = True
    image[:] = 1e4
    assert (fill_bleed_trails(image, mask, psf()).values == 1e4).all()


def test_interpolation_is_doubted_where_the_image_bends():
    image = 1000.0 * gaussian((60, 60), 30, 30).astype("f4") + 0.5 * np.arange(60, dtype="f4")
    truth = image.copy()
    holes = np.zeros(image.shape, bool)
    holes[:, 30] = holes[:, 5] = holes[10:12, 40:56] = True
    holes[40, 0] = True
    filled = fill_holes(image, holes)
    interpolated, doubt = doubt_interpolation(filled, holes, sigma=1.0)
    assert interpolated[:, 30].all() and interpolated[:, 5].all()
    assert not interpolated[10, 45] and not interpolated[40, 0]  # too wide, at the rim
    assert (doubt.cols == 30).all()  # a slope is no reason for doubt
    error = np.abs(filled - truth)[doubt.rows, doubt.cols]
    near = np.abs(doubt.rows - 30) < 3
    assert near.sum() == 5
    assert (doubt.values[near] > 0.7 * error[near]).all() and (doubt.values < 4 * error + 10).all()


def test_noise_alone_is_no_reason_for_doubt():
    rng = np.random.default_rng(3)
    image = rng.normal(0, 5, (400, 60)).astype("f4")
    holes = np.zeros(image.shape, bool)
    holes[:, 20] = True
    _, doubt = doubt_interpolation(fill_holes(image, holes), holes, sigma=5.0)
    assert len(doubt.rows) < 0.01 * 400


def test_carried_doubt_is_a_convolution_without_cancellation():
    kernel = gaussian((9, 9), 4, 4, 1.5)
    kernel[0, 4] = -0.1
    doubt = Doubt(np.array([20, 21, 0]), np.array([30, 30, 0]), np.array([1e4, 5e3, 10.0], "f4"))
    carried = doubt.carried(kernel, (40, 50))
    expected = np.zeros((40, 50))
    expected[16:25, 26:35] += 1e4 * np.abs(kernel)
    expected[17:26, 26:35] += 5e3 * np.abs(kernel)
    expected[:5, :5] += 10.0 * np.abs(kernel[4:, 4:])
    np.testing.assert_allclose(carried, expected, rtol=1e-5, atol=1e-3)
    none = np.zeros(0, int)
    assert not Doubt(none, none, np.zeros(0, "f4")).carried(kernel, (9, 9)).any()


@pytest.mark.parametrize("which", ["science", "template"])
def test_a_transient_beside_a_bleed_trail_or_a_bad_column_is_measured_right(which):
    pair = make_pair(shape=(400, 420), seed=11, n_transients=6)
    x, y, flux = max(pair.transients, key=lambda t: abs(t[2]))
    exposure = getattr(pair, which)
    trail = np.zeros(exposure.image.array.shape, bool)
    trail[:, round(x) + 12 : round(x) + 15] = True
    exposure.image.array[trail] = 5e4
    exposure.mask.set("SATURATED", trail)
    column = np.zeros(trail.shape, bool)
    column[:, round(x) - 9] = True
    exposure.image.array[column] = 0.0
    exposure.mask.set("BAD", column)
    result = TwinklesImageDifferenceTask().run(pair.science, pair.template)
    sources = result.diaSources
    nearest = np.hypot(np.asarray(sources["x"]) - x, np.asarray(sources["y"]) - y).argmin()
    assert np.hypot(sources["x"][nearest] - x, sources["y"][nearest] - y) < 0.5
    assert abs(sources["psfFlux"][nearest] - NJY * flux) < 4 * sources["psfFluxErr"][nearest]
    mask = result.subtractedExposure.mask
    unusable = np.any([mask.get(p) for p in ("SATURATED", "SAT_TEMPLATE", "BAD")], axis=0)
    # Four columns were masked in the inputs; little more is in the difference.
    assert 4 * 400 <= unusable.sum() < 6 * 400
