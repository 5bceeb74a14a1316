"""Sky sources: where nothing is, with fluxes that scatter as their errors say."""

import numpy as np
import pytest
from astropy.table import Table
from scipy import stats
from small_exposures import make_wcs
from small_pairs import NJY, make_pair
from test_detect_streaks import make_difference

from lsst.twinkles.diffim.algorithms.measure.sky_positions import draw_sky_positions
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from lsst.twinkles.diffim.tasks.sky_objects import SkyObjectsTask, measure_sky_fluxes

SHAPE = (300, 360)


def draw(avoid, n=100, trials=2000, radius=6.0, grow=0.0, seed=1):
    return draw_sky_positions(avoid, n_sources=n, n_trials=trials, radius=radius, grow=grow, seed=seed)


@pytest.mark.parametrize("grow", [0, 4])
def test_discs_are_clear_apart_and_inside(grow):
    rng = np.random.default_rng(1)
    avoid = np.zeros(SHAPE, bool)
    avoid[rng.integers(0, 300, 60), rng.integers(0, 360, 60)] = True
    x, y = draw(avoid, grow=grow)
    assert len(x) > 40
    rows, cols = np.nonzero(avoid)
    assert np.hypot(cols[:, None] - x, rows[:, None] - y).min() > 6.0 + grow
    distance = np.hypot(x[:, None] - x, y[:, None] - y)[np.triu_indices(len(x), 1)]
    assert distance.min() > 18.0
    assert x.min() >= 6 and y.min() >= 6 and x.max() < 354 and y.max() < 294


def test_positions_are_repeatable_even_and_seeded():
    avoid = np.zeros(SHAPE, bool)
    first, again, other = draw(avoid, seed=1), draw(avoid, seed=1), draw(avoid, seed=2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    counts, _, _ = np.histogram2d(*first, bins=2, range=[[0, 360], [0, 300]])
    assert counts.min() > 15  # of 100 in four quarters


@pytest.mark.parametrize("avoid", [np.ones(SHAPE, bool), np.zeros((9, 400), bool)])
def test_no_room_no_positions(avoid):
    assert [len(values) for values in draw(avoid)] == [0, 0]


def test_forced_fluxes_of_noise_are_normal():
    """12 images of pure noise: mean 0, width 1, and normal by the Kolmogorov-Smirnov test."""
    pulls = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        difference = make_difference(rng.normal(size=SHAPE), start=(50, -20))
        positions = SkyObjectsTask().run(difference.mask, seed=seed).sources
        fluxes = measure_sky_fluxes(difference, positions, error_scale=1.0, bad_planes=["BAD"])
        doubled = measure_sky_fluxes(difference, positions, error_scale=2.0, bad_planes=["BAD"])
        np.testing.assert_allclose(doubled.error, 2 * fluxes.error)
        pulls.append(fluxes.flux / fluxes.error)
        # A Gaussian of sigma 2 on unit noise.
        np.testing.assert_allclose(fluxes.error, np.sqrt(4 * np.pi) * 2.0, rtol=0.01)
    pulls = np.concatenate(pulls)
    assert len(pulls) > 800
    assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls)) and pulls.std() == pytest.approx(1, abs=0.1)
    assert stats.kstest(pulls, "norm").pvalue > 1e-3


@pytest.fixture(scope="module")
def runs():
    """The task with and without sky sources."""
    results = []
    for do_sky in (False, True):
        pair = make_pair(seed=5, shape=SHAPE, n_transients=8)
        config = ImageDifferenceConfig()
        config.doSkySources = do_sky
        config.skySources.nSources = 30
        task = ImageDifferenceTask(config=config)
        results.append((task, task.run(pair.science, pair.template, idFactory=1000)))
    return results


def test_rows_come_after_those_of_detections(runs):
    (_, plain), (task, result) = runs
    table = result.diaSources
    sky = np.asarray(table["sky_source"])
    n = len(plain.diaSources)
    assert n >= 8 and 10 < sky.sum() == task.metadata["n_skySources"] <= 30
    assert not sky[:n].any() and sky[n:].all()
    for name in plain.diaSources.colnames:
        old, new = plain.diaSources[name], table[name]
        np.testing.assert_array_equal(np.asarray(old), np.asarray(new)[:n], err_msg=name)
        assert (old.dtype, old.unit, old.description) == (new.dtype, new.unit, new.description)
    np.testing.assert_array_equal(table["diaSourceId"], 1000 + np.arange(len(table)))
    assert result.metrics["nDiaSources"] == n and result.metrics["n_skySources"] == sky.sum()


def test_sky_rows_hold_what_was_measured(runs):
    _, (_, result) = runs
    sky = result.diaSources[result.diaSources["sky_source"]]
    assert np.abs(sky["snr"]).max() < 5 and np.std(sky["snr"]) == pytest.approx(1, abs=0.5)
    np.testing.assert_allclose(sky["psfFlux"] / sky["psfFluxErr"], sky["snr"], rtol=1e-6)
    # In nJy, where the errors of the detections are.
    assert np.median(sky["psfFluxErr"]) == pytest.approx(np.median(result.diaSources["psfFluxErr"]), rel=0.3)
    assert np.median(sky["psfFluxErr"]) > 10 * NJY
    ra, dec = make_wcs().wcs_pix2world(sky["x"], sky["y"], 0)
    np.testing.assert_allclose([sky["ra"], sky["dec"]], [ra, dec], atol=1e-8)
    mask = result.subtractedExposure.mask
    x, y = (np.round(sky[name]).astype(int) for name in "xy")
    assert not (mask.get("DETECTED") | mask.get("DETECTED_NEGATIVE"))[y, x].any()
    assert set(sky["visit"]) == set(result.diaSources["visit"]) and not sky["pixelFlags"].any()


def test_a_catalogue_without_detections_gets_sky_sources_too(runs):
    from lsst.twinkles.diffim.tasks.add_sky_sources import append_sky_sources

    _, (_, result) = runs
    difference = result.subtractedExposure
    positions = Table({"x": [50.0, 90.0], "y": [60.0, 70.0]})
    fluxes = measure_sky_fluxes(difference, positions, error_scale=1.0, bad_planes=["BAD"])
    table = append_sky_sources(result.diaSources[:0], difference, positions, fluxes, id_base=701)
    assert table["diaSourceId"].tolist() == [701, 702] and table["sky_source"].all()
    assert table["band"].tolist() == [difference.band] * 2
