"""Cosmic rays and hot pixels are found and repaired; stars, supernovae and galaxies are left alone."""

import numpy as np
import pytest
from small_exposures import draw_stars, make_exposure
from small_pairs import fingerprint, make_pair

from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.read.cosmic_rays import (
    count_groups,
    find_cosmic_rays,
    interpolate_pixels,
    pair_ratios,
)
from lsst.twinkles.diffim.tasks.find_cosmic_rays import FindCosmicRaysTask
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask

SHAPE = (200, 220)
SETTINGS = dict(min_sigma=6.0, min_counts=0.0, margin=2.5, iterations=3)


def gaussian_psf(sigma, size=31):
    y, x = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    return PsfGrid.constant(stamp / stamp.sum())


def find(image, variance=100.0, sigma=2.0, bad=None):
    variance = np.broadcast_to(np.float32(variance), image.shape).astype(np.float32)
    bad = np.zeros(image.shape, bool) if bad is None else bad
    return find_cosmic_rays(
        image.astype(np.float32), variance, bad, 0.6 * pair_ratios(gaussian_psf(sigma)), **SETTINGS
    )


def test_ratios_of_a_gaussian():
    """Above the level three pixels away, which the exact Gaussian gives too."""
    sigma = 2.0
    y, x = np.mgrid[-3:4, -3:4]
    ring = np.exp(-0.5 * (x**2 + y**2) / sigma**2)[np.maximum(np.abs(x), np.abs(y)) == 3]
    level = np.quantile(ring, 0.25)
    beside, corner = ((np.exp(-0.5 * r2 / sigma**2) - level) / (1 - level) for r2 in (1, 2))
    np.testing.assert_allclose(pair_ratios(gaussian_psf(sigma)), [beside, beside, corner, corner], rtol=1e-3)


@pytest.mark.parametrize(("height", "least"), [(8.0, 0.85), (15.0, 0.98), (1e6, 1.0)])
def test_hot_pixels_are_found(height, least):
    rng = np.random.default_rng(1)
    image = 10 * rng.normal(size=SHAPE)
    places = [(y, x) for y in range(10, 190, 12) for x in range(10, 210, 12)]
    rows, cols = np.array(places).T
    image[rows, cols] += 10 * height
    found = find(image)
    assert found[rows, cols].mean() >= least
    found[rows, cols] = False
    assert found.mean() < 1e-4


def test_tracks_are_found_whole_in_all_directions():
    rng = np.random.default_rng(2)
    image, track = 10 * rng.normal(size=SHAPE), np.zeros(SHAPE, bool)
    for k, angle in enumerate(np.radians([0, 20, 45, 70, 90, 115, 135, 160])):
        steps = np.arange(0, 12, 0.5)
        x = np.round(30 + 50 * (k % 4) + steps * np.cos(angle)).astype(int)
        y = np.round(50 + 90 * (k // 4) + steps * np.sin(angle)).astype(int)
        track[y, x] = True
    image[track] += 400
    found = find(image)
    assert found[track].mean() > 0.9 and (found & ~track).sum() <= 2
    assert count_groups(track) == 8


@pytest.mark.parametrize("sigma", [0.8, 2.0, 4.0])
def test_stars_of_all_phases_and_fluxes_are_left_alone(sigma):
    rng = np.random.default_rng(3)
    n_marked = 0
    for flux in 10 ** np.arange(3.0, 7.0, 0.5):
        places = [(x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5)) for x in range(20, 210, 30)
                  for y in range(20, 190, 30)]  # fmt: skip
        stars = draw_stars(SHAPE, places, sigma=sigma, flux=flux)
        image = stars + np.sqrt(100 + stars) * rng.normal(size=SHAPE)
        n_marked += find(image, 100 + stars, sigma).sum()
    assert n_marked / (8 * SHAPE[0] * SHAPE[1]) < 1e-5


@pytest.mark.parametrize("ratio", [0.02, 0.2, 1.0, 5.0])
def test_a_supernova_on_a_galaxy_is_left_alone(ratio):
    """On the cusp of an exponential disc as seen through the same PSF, wherever it lies in its pixel."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(4)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for offset in (0.0, 1.5, 4.0):
        galaxy = gaussian_filter(2e4 * np.exp(-np.hypot(x - 110, y - 100) / 3.0), 2.0)
        place = 110 + offset + rng.uniform(-0.5, 0.5), 100 + rng.uniform(-0.5, 0.5)
        light = galaxy + draw_stars(SHAPE, [place], sigma=2.0, flux=ratio * galaxy.sum())
        for _ in range(5):
            image = light + np.sqrt(100 + light) * rng.normal(size=SHAPE)
            assert not find(image, 100 + light).any()


def test_a_cosmic_ray_on_a_galaxy_is_found():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = 5e3 * np.exp(-np.hypot(x - 110, y - 100) / 12.0)
    image = light + np.sqrt(100 + light) * rng.normal(size=SHAPE)
    image[105, 114] += 2000
    found = find(image, 100 + light)
    assert found[105, 114] and found.sum() == 1


def test_bad_pixels_are_not_judged():
    image = np.zeros(SHAPE)
    image[50, 50] = image[100, 100] = 1e4
    bad = np.zeros(SHAPE, bool)
    bad[50, 50] = True
    assert np.argwhere(find(image, bad=bad)).tolist() == [[100, 100]]


def test_repair_of_a_plane_is_exact():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    plane = 3.0 + 0.5 * x - 0.25 * y
    spoilt = np.zeros(SHAPE, bool)
    spoilt[[60, 61, 120], [70, 71, 150]] = True
    image = np.where(spoilt, 1e6, plane)
    repaired = image.copy()
    interpolate_pixels(repaired, spoilt, np.zeros(SHAPE, bool), sigma=1.2)
    np.testing.assert_array_equal(repaired[~spoilt], plane[~spoilt])
    np.testing.assert_allclose(repaired[120, 150], plane[120, 150], atol=1e-9)  # symmetric around it
    np.testing.assert_allclose(repaired[spoilt], plane[spoilt], atol=0.3)


def test_task_marks_and_repairs_a_copy():
    rng = np.random.default_rng(6)
    exposure = make_exposure(500 + 10 * rng.normal(size=SHAPE))
    exposure.image.array[50, 60] += 1e5
    before = fingerprint(exposure)
    result = FindCosmicRaysTask().run(exposure)
    assert fingerprint(exposure) == before and result.count == result.nPixels == 1
    assert np.argwhere(result.exposure.mask.get("COSMIC_RAY")).tolist() == [[50, 60]]
    assert result.exposure.mask.get("INTERPOLATED")[50, 60]
    assert abs(result.exposure.image.array[50, 60] - 500) < 30
    config = FindCosmicRaysTask.ConfigClass()
    config.keepCRs = True
    kept = FindCosmicRaysTask(config=config).run(exposure).exposure
    assert kept.image.array[50, 60] > 1e5 and not kept.mask.get("INTERPOLATED").any()


def test_nothing_is_believed_of_a_wrong_psf(caplog):
    rng = np.random.default_rng(7)
    stars = draw_stars(
        SHAPE, [(x, y) for x in range(15, 210, 20) for y in range(15, 190, 20)], sigma=0.6, flux=1e5
    )
    exposure = make_exposure(stars + 10 * rng.normal(size=SHAPE), sigma=4.0)
    config = FindCosmicRaysTask.ConfigClass()
    config.nCrPixelMax = 50
    result = FindCosmicRaysTask(config=config).run(exposure, "science")
    assert result.exposure is exposure and result.nPixels == 0
    assert "more than nCrPixelMax=50" in caplog.text


def test_a_hot_pixel_makes_no_detections():
    """One pixel of a million sigma, not masked, gave tens of them; without the search it still does."""
    pair = make_pair(seed=3)
    pair.science.image.array[150, 170] += 1e7
    pair.template.image.array[90, 60] += 1e7
    numbers = {}
    for repair in (True, False):
        config = ImageDifferenceConfig()
        config.doFindCosmicRays, config.doAssessDifference = repair, False
        task = ImageDifferenceTask(config=config)
        table = task.run(pair.science, pair.template).diaSources
        near = np.minimum(
            np.hypot(table["x"] - 170, table["y"] - 150), np.hypot(table["x"] - 60, table["y"] - 90)
        )
        numbers[repair] = int((near < 40).sum())
    assert numbers[True] == 0 and numbers[False] >= 4
