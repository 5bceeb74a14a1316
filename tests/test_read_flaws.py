"""Sky, scatter and flaws of bare images."""

import numpy as np
import pytest
from plain_scenes import make_scene
from scipy.ndimage import gaussian_filter

from lsst.twinkles.diffim.algorithms.read.flaws import (
    find_blank_border,
    find_odd_rim,
    find_pile_up,
    find_saturated,
    find_spikes,
)
from lsst.twinkles.diffim.algorithms.read.sky import (
    SkyModel,
    estimate_sky,
    estimate_source_poisson,
    neighbour_correlation,
)


def noise(shape=(200, 240), level=100.0, sigma=5.0, seed=0):
    return np.random.default_rng(seed).normal(level, sigma, shape)


def no_bad(image):
    return np.zeros(image.shape, bool)


def test_sky_of_pure_noise():
    sky = estimate_sky(noise(), no_bad(noise()), mesh=64)
    assert sky.level.shape == sky.sigma.shape == (200, 240)
    assert np.abs(sky.level - 100.0).max() < 1.0 and np.abs(sky.sigma / 5.0 - 1).max() < 0.1
    assert sky.sigma.mean() == pytest.approx(5.0, rel=0.01)


def test_sky_under_stars_and_gradient():
    scene = make_scene(shape=(400, 400), n_stars=100)
    ramp = np.linspace(0, 60, 400)[:, None] * np.ones(400)
    sky = estimate_sky(scene.image + ramp, no_bad(scene.image), mesh=64)
    inner = np.s_[40:-40, 40:-40]
    assert np.abs(sky.level - 400.0 - ramp)[inner].max() < 5.0  # a quarter of the noise of a pixel
    assert np.median(sky.sigma) == pytest.approx(np.sqrt(430 / 1.5 + (5 / 1.5) ** 2), rel=0.05)


def test_bad_and_not_finite_pixels_do_not_count():
    image = noise()
    bad = no_bad(image)
    bad[:90] = True
    image[:90] = 1e6
    image[100:110] = np.nan
    assert np.abs(estimate_sky(image, bad, mesh=40).level - 100.0).max() < 2.0


def test_no_sky_at_all():
    with pytest.raises(ValueError, match="0 of 10000 pixels"):
        estimate_sky(np.full((100, 100), np.nan), np.zeros((100, 100), bool), mesh=50)


def test_source_poisson_is_that_of_the_stars_and_nothing_of_the_sky():
    scene = make_scene(gain=2.0)
    sky = SkyModel(np.full(scene.image.shape, 400.0, "f4"), np.full(scene.image.shape, 14.5, "f4"))
    variance = estimate_source_poisson(scene.image, sky, gain=2.0)
    light = scene.model - 400.0
    truth = light.sum() / 2.0
    assert variance[light > 1].sum() == pytest.approx(truth, rel=0.02)
    assert variance[light < 1].mean() < 0.02 * 14.5**2
    assert variance.min() >= 0.0


@pytest.mark.parametrize("width", [0.0, 0.5, 0.8])
def test_correlation_of_neighbours(width):
    """Of white noise smoothed with a Gaussian, stars in it or not."""
    scene = make_scene(shape=(400, 400), n_stars=64)
    white = np.random.default_rng(3).normal(size=scene.image.shape)
    smooth = gaussian_filter(white, width) if width else white
    centre = np.zeros((21, 21))
    centre[10, 10] = 1.0
    kernel = gaussian_filter(centre, width) if width else centre
    truth = (kernel[:, 1:] * kernel[:, :-1]).sum() / (kernel**2).sum()
    image = scene.model + 18.0 * smooth / smooth.std()
    sky = estimate_sky(image, no_bad(image), mesh=64)
    assert neighbour_correlation(image, sky, no_bad(image)) == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("n, found", [(40, True), (3, False)])
def test_pile_up(n, found):
    image = 10 ** np.random.default_rng(2).uniform(2.0, 4.5, 40000)
    image[:n] = 60000.0
    level = find_pile_up(image.reshape(200, 200), n_min=5, contrast=10.0)
    assert (level == pytest.approx(60000.0, rel=0.003)) if found else level is None


def test_blank_images_do_not_pile_up():
    assert find_pile_up(np.zeros((9, 9)), n_min=5, contrast=10.0) is None
    assert find_pile_up(np.full((9, 9), 7.0), n_min=5, contrast=10.0) is None
    assert find_pile_up(np.full((9, 9), np.nan), n_min=5, contrast=10.0) is None


def test_saturated_pixels_grow():
    image = np.zeros((21, 21))
    image[10, 10] = 100.0
    assert find_saturated(image, 100.0, grow=0).sum() == 1
    assert find_saturated(image, 100.0, grow=2).sum() == 13  # a diamond
    assert not find_saturated(image, 101.0, grow=2).any()


@pytest.mark.parametrize("value", [0.0, -999.0, 101.0])
def test_blank_border_of_a_registration(value):
    image = noise()
    rows, columns = np.mgrid[:200, :240]
    truth = (rows < 0.1 * columns) | (columns > 230)  # a turned frame
    image[truth] = value
    image[100, 100] = value  # the same value inside is no border
    np.testing.assert_array_equal(find_blank_border(image, grow=0), truth)
    grown = find_blank_border(image, grow=2)
    assert grown[100, :233].sum() == 4 and grown[60, 229] and not grown[60, 228]


def test_filling_of_a_small_part_of_a_side():
    image = noise()
    image[0, 200:] = 100.0
    blank = find_blank_border(image, grow=0)
    assert blank[0, 200:].all() and blank.sum() == 40


def test_no_blank_border():
    assert not find_blank_border(noise(), grow=2).any()
    # Whole numbers with little noise repeat themselves.
    assert not find_blank_border(np.round(noise(shape=(500, 500), sigma=1.0)), grow=2).any()


def test_odd_rims():
    image = noise()
    image[:, 0] -= 40.0
    image[-2:] += 8.0
    truth = np.zeros(image.shape, bool)
    truth[:, 0] = truth[-2:] = True
    odd = find_odd_rim(image, no_bad(image), depth=4, n_sigma=1.0)
    np.testing.assert_array_equal(odd, truth)


def test_even_rims():
    image = noise() + np.linspace(0, 100, 240)  # a gradient of a twelfth of a sigma per pixel
    image[:4, :80] += 300.0  # a galaxy at the rim
    assert not find_odd_rim(image, no_bad(image), depth=4, n_sigma=1.0).any()
    assert not find_odd_rim(np.zeros((30, 30)), np.zeros((30, 30), bool), depth=4, n_sigma=1.0).any()
    assert not find_odd_rim(noise(shape=(6, 6)), np.zeros((6, 6), bool), depth=4, n_sigma=1.0).any()


@pytest.mark.parametrize("sigma", [0.9, 1.8, 3.0])
def test_spikes_are_told_from_stars(sigma):
    """Hot and dead pixels and tracks of cosmic rays; no pixel of a star, whatever its phase or light."""
    scene = make_scene(shape=(400, 400), n_stars=100, sigma=sigma, seed=3)
    light = scene.image - 400.0
    far = np.hypot(
        *(np.indices((400, 400))[:, :, :, None] - np.stack([scene.y, scene.x])[:, None, None])
    ).min(axis=-1)
    noise_of_pixel = np.sqrt(scene.true_variance)
    rng = np.random.default_rng(7)
    y, x = np.nonzero((far > 9 * sigma)[10:-10, 10:-10])
    chosen = rng.choice(len(y), 60, replace=False)
    y, x = y[chosen] + 10, x[chosen] + 10
    height = np.where(np.arange(60) % 3 == 0, -15.0, 15.0) * noise_of_pixel[y, x]
    light[y, x] += height
    light[y[:20], x[:20] + 1] += height[:20]  # tracks of two pixels
    ratio = np.exp(-0.5 / sigma**2)
    spikes = find_spikes(light, noise_of_pixel, no_bad(light), least_ratio=0.5 * ratio, n_sigma=6.0)
    assert spikes[y, x].mean() > 0.9
    spikes[y, x] = spikes[y[:20], x[:20] + 1] = False
    assert spikes.sum() == 0


def test_neighbours_of_bad_pixels_are_no_spikes():
    light = np.zeros((30, 30))
    light[10, 10] = 100.0
    bad = no_bad(light)
    assert find_spikes(light, np.ones((30, 30)), bad, least_ratio=0.3, n_sigma=6.0).sum() == 1
    bad[10, 11] = True
    assert not find_spikes(light, np.ones((30, 30)), bad, least_ratio=0.3, n_sigma=6.0).any()
