"""The sky that is left in a difference."""

import numpy as np
import pytest
from test_detect_streaks import make_difference

from lsst.twinkles.diffim.algorithms.detect.residual_sky import average_blocks, is_dark, sky_of_cells
from lsst.twinkles.diffim.tasks.subtract_background import SubtractBackgroundTask

SHAPE = (512, 640)


def cells_of(image, *, light=None, block=8, size=16):
    good = np.zeros(image.shape, bool)
    means = average_blocks(image, good, size=block)
    if light is not None:
        means = np.where(is_dark(average_blocks(light, good, size=block), 0.5), means, np.nan)
    return sky_of_cells(means, size=size, min_fraction=0.25)


@pytest.mark.parametrize("sign", [-1, 1])
def test_sky_of_skew_noise_is_its_mean(sign):
    # A gamma distribution of 16 has a skewness of 1/2: its median is off by a twelfth of a sigma.
    noise = sign * (np.random.default_rng(1).gamma(16.0, size=SHAPE) - 16.0) / 4.0
    assert abs(np.median(noise)) > 0.07
    sky, number = cells_of(noise)
    assert sky.shape == (4, 5) and (number > 180).all()
    # An eighth of the skewness in eighths of the noise, and what 327 680 pixels tell.
    assert abs(sky.mean() + sign * 0.5 / 8 / 6 / 8) < 4 * 1.25 / np.sqrt(noise.size)


def test_faint_changes_do_not_count():
    rng = np.random.default_rng(2)
    image = rng.normal(size=SHAPE)
    y, x = np.mgrid[-8:9, -8:9]
    profile = 5 * 7 * np.exp(-(x**2 + y**2) / 8) / (8 * np.pi)  # of a signal-to-noise ratio of 5
    for j, i in zip(rng.integers(10, 500, 120), rng.integers(10, 630, 120), strict=True):
        image[j - 8 : j + 9, i - 8 : i + 9] += profile
    sky, _ = cells_of(image)
    assert image.mean() > 0.012
    assert abs(sky.mean()) < 0.5 * image.mean()


def test_where_there_is_light_is_no_sky():
    rng = np.random.default_rng(3)
    light = np.zeros(SHAPE)
    light[:, ::64] = 100.0  # stars all over, whose wings leave a little
    image = rng.normal(size=SHAPE) + 0.002 * light
    sky, _ = cells_of(image, light=light)
    assert abs(sky.mean()) < 4 * 1.25 / np.sqrt(image.size)


def test_bad_pixels_and_small_images():
    image = np.full((20, 33), 3.0)
    bad = np.zeros(image.shape, bool)
    bad[0, 0] = True
    means = average_blocks(image, bad, size=8)
    assert means.shape == (2, 4)
    assert np.isnan(means[0, 0]) and np.isfinite(means).sum() == 7
    sky, number = sky_of_cells(means, size=16, min_fraction=0.25)
    assert np.isnan(sky).all() and number.sum() == 7  # 7 of 256 blocks are too few
    assert sky_of_cells(means, size=2, min_fraction=0.25)[0] == pytest.approx(3.0)
    assert not is_dark(np.full((2, 2), np.nan), 1.0).any()


@pytest.mark.parametrize("size", [160, 256, 700])
def test_a_small_image_has_cells_enough_for_a_polynomial(size):
    """The sky of the second order is found whatever the size, cells being what they are for large images."""
    rng = np.random.default_rng(6)
    y, x = 2.0 * np.mgrid[:size, :size] / size - 1.0
    sky = 0.4 + 0.3 * x - 0.2 * y + 0.5 * x * y - 0.6 * x**2
    config = SubtractBackgroundTask.ConfigClass()
    config.order = 2
    assert config.binSize == 128
    task = SubtractBackgroundTask(config=config)
    found = task.run(make_difference(rng.normal(size=(size, size)) + sky)).background
    # Six terms from medians of all pixels, on the average; three times as much at the corners.
    assert np.sqrt(np.mean((found - sky) ** 2)) < 4 * 1.3 * np.sqrt(6.0) / size
