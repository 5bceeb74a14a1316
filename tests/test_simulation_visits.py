"""Simulated exposures: light, noise, flaws, and the truth that goes with them."""

import numpy as np
import pytest
from astropy.table import Table

from lsst.twinkles.diffim.adapters.psfs import psf_fwhm, sample_psf
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.simulation.atmosphere import VaryingPsf, draw_sky, extent_table
from lsst.twinkles.diffim.simulation.ccd import bleed, expose
from lsst.twinkles.diffim.simulation.conditions import VisitConditions, sky_electrons
from lsst.twinkles.diffim.simulation.config import DetectorConfig, SceneConfig
from lsst.twinkles.diffim.simulation.rendering import render_galaxies, render_points
from lsst.twinkles.diffim.simulation.scene import TwinklesScene
from lsst.twinkles.diffim.simulation.visits import simulate_visit

SIZE = 256


def conditions(visit=1, fwhm_eff=0.8, **kwargs):
    return VisitConditions(
        visit=visit, band="r", mjd=59700.0, fwhm_eff=fwhm_eff, sky_magnitude=20.9, **kwargs
    )


def make_psf(fwhm=0.8, *, variation=0.0, size=SIZE):
    return VaryingPsf.draw_random(
        np.random.default_rng(1), fwhm=fwhm, fwhm_variation=variation, ellipticity=variation, nx=size, ny=size
    )


@pytest.fixture(scope="module")
def scene():
    return TwinklesScene.make(
        SceneConfig(nx=SIZE, ny=SIZE, seed=3, overload=10.0, variable_star_fraction=0.2)
    )


@pytest.fixture(scope="module")
def visit(scene):
    return simulate_visit(scene, conditions())


def test_same_visit_gives_the_same_pixels_and_another_one_other_noise(scene, visit):
    again, other = simulate_visit(scene, conditions()), simulate_visit(scene, conditions(visit=2))
    assert np.array_equal(again.exposure.image.array, visit.exposure.image.array)
    assert np.array_equal(again.exposure.mask.array, visit.exposure.mask.array)
    assert not np.array_equal(other.exposure.image.array, visit.exposure.image.array)


def test_visits_differ_in_seeing_as_their_conditions_say(scene):
    detector = DetectorConfig(fwhm_variation=0.0, ellipticity=0.0)
    for fwhm_eff in (0.6, 1.1):
        visit = simulate_visit(scene, conditions(fwhm_eff=fwhm_eff), detector=detector)
        measured = psf_fwhm(sample_psf(visit.exposure.psf, visit.exposure.bbox, grid=1))
        assert measured == pytest.approx(psf_fwhm(PsfGrid.constant(visit.psf.middle_stamp())), rel=0.01)
        # The pixel widens the profile by the variance of a square of one pixel (of a Gaussian, that is).
        pixels = np.hypot(0.865 * fwhm_eff / 0.2, 2.355 * np.sqrt(1 / 12))
        assert measured == pytest.approx(pixels, rel=0.07)


def test_noise_is_that_of_the_true_variance(visit):
    exposure = visit.exposure
    good = ~(exposure.mask.get("BAD") | exposure.mask.get("SATURATED"))
    level = sky_electrons(visit.conditions)
    pulls = (exposure.image.array + level - visit.model - visit.sky)[good] / np.sqrt(
        visit.true_variance[good]
    )
    n = np.count_nonzero(good)
    # Nine tenths of the sky's gradient are subtracted with its level: a constant to a few electrons.
    assert np.std(pulls) == pytest.approx(1.0, abs=5 / np.sqrt(2 * n) + 0.005)
    ratio = exposure.variance.array[good] / visit.true_variance[good]
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.01)


def test_variance_plane_follows_the_noise_as_that_of_a_pipeline_does(visit):
    blank = visit.model < 1.0
    blank &= ~visit.exposure.mask.get("BAD")
    image, variance = visit.exposure.image.array[blank], visit.exposure.variance.array[blank]
    assert np.corrcoef(image, variance)[0, 1] > 0.9


def test_sky_is_subtracted_unless_it_is_kept(scene):
    level = sky_electrons(conditions())
    kept = simulate_visit(scene, conditions(), detector=DetectorConfig(subtract_sky=False))
    gone = simulate_visit(scene, conditions())
    noise = np.sqrt(level)
    assert np.median(kept.exposure.image.array) == pytest.approx(level, abs=0.3 * noise)
    assert np.median(gone.exposure.image.array) == pytest.approx(0.0, abs=0.3 * noise)


def test_a_star_of_known_magnitude_has_its_flux(scene):
    star = Table({"x": [128.3], "y": [120.8], "electrons": [50_000.0]})
    psf, quiet = make_psf(), DetectorConfig(jitter=0.0)
    with_star = simulate_visit(scene, conditions(), detector=quiet, psf=psf, extra_points=star)
    without = simulate_visit(scene, conditions(), detector=quiet, psf=psf)
    light = with_star.model - without.model
    y, x = np.mgrid[:SIZE, :SIZE]
    assert light.sum() == pytest.approx(50_000.0, rel=0.02)
    assert (light * x).sum() / light.sum() == pytest.approx(128.3, abs=0.01)
    assert (light * y).sum() / light.sum() == pytest.approx(120.8, abs=0.01)
    box = with_star.exposure.bbox
    scaling = float(
        with_star.exposure.photometric_scaling(x=np.array([box.x.start + 1.0]), y=np.array([1.0]))[0]
    )
    magnitude = with_star.conditions.zero_point - 2.5 * np.log10(50_000.0)
    # Half a percent to two lies beyond the stamps of the PSF, by which calibrated fluxes are measured.
    window = light[120 - 19 : 120 + 22, 128 - 20 : 128 + 21]
    assert 0.98 < psf.enclosed() < 0.998 and window.sum() == pytest.approx(50_000 * psf.enclosed(), rel=2e-3)
    assert scaling * window.sum() == pytest.approx(10 ** (0.4 * (31.4 - magnitude)), rel=2e-3)


def test_truth_lies_where_the_wcs_of_a_dithered_and_turned_visit_says(scene):
    item = conditions(visit=5, offset=(7.5, -4.0), rotation=20.0)
    visit = simulate_visit(scene, item, detector=DetectorConfig(jitter=0.0))
    truth = visit.truth
    pixel = visit.exposure.sky_projection.sky_to_pixel(_sky(truth))
    assert np.asarray(pixel.x) == pytest.approx(np.asarray(truth["x"]), abs=2e-3)
    assert np.asarray(pixel.y) == pytest.approx(np.asarray(truth["y"]), abs=2e-3)


def _sky(table):
    from astropy.coordinates import SkyCoord

    return SkyCoord(table["ra"], table["dec"], frame="icrs")


def test_truth_gives_one_brightness_in_three_units(visit):
    truth = visit.truth
    seen = np.isfinite(truth["magnitude"])
    assert truth["flux"].unit.to_string() == "nJy" and truth["x"].unit.to_string() == "pix"
    expected = 10 ** (0.4 * (31.4 - truth["magnitude"][seen]))
    assert np.asarray(truth["flux"][seen]) == pytest.approx(np.asarray(expected))
    factor = visit.conditions.nanojansky_per_electron
    assert np.asarray(truth["electrons"][seen]) * factor == pytest.approx(np.asarray(expected))
    assert np.all(truth["flux"][~seen] == 0)


def test_registration_error_is_as_large_as_asked_for(scene):
    visit = simulate_visit(scene, conditions(), detector=DetectorConfig(jitter=0.5))
    middle = np.array([SIZE / 2])
    x, y = visit.displace(middle, middle)
    assert np.hypot(x - middle, y - middle)[0] == pytest.approx(0.5)
    corner_x, corner_y = visit.displace(np.zeros(1), np.zeros(1))
    assert np.hypot(corner_x - x + middle, corner_y - y + middle)[0] == pytest.approx(0.5 * 0.4 * np.sqrt(2))


def test_exposure_says_what_it_is(visit):
    exposure = visit.exposure
    assert exposure.band == "r" and exposure.unit.to_string() == "electron"
    assert exposure.obs_info.visit_id == 1 and exposure.obs_info.detector_num == exposure.detector.id
    middle = (exposure.obs_info.datetime_begin.mjd + exposure.obs_info.datetime_end.mjd) / 2
    assert middle == pytest.approx(59700.0, abs=1e-4)
    stats = exposure.summary_stats
    scaling = float(exposure.photometric_scaling(x=np.array([1.0]), y=np.array([1.0]))[0])
    assert stats.zeroPoint == pytest.approx(31.4 - 2.5 * np.log10(scaling))
    assert stats.zeroPoint == pytest.approx(visit.conditions.zero_point, abs=0.02)
    assert stats.skyNoise == pytest.approx(np.sqrt(np.median(visit.true_variance)), rel=0.02)


def test_points_and_galaxies_keep_their_flux_and_light_beyond_the_rim_reaches_in():
    psf = make_psf()
    points, rim = np.zeros((2, SIZE, SIZE))
    render_points(points, psf, x=np.array([100.0]), y=np.array([90.0]), flux=np.array([1e6]))
    assert points.sum() == pytest.approx(1e6, rel=0.01)
    render_points(rim, psf, x=np.array([-3.0]), y=np.array([90.0]), flux=np.array([1e6]))
    assert 0 < rim.sum() < 0.15e6 and rim[90, 0] == rim.max()
    galaxy = np.zeros((SIZE, SIZE))
    shape = Table({"half_light_radius": [0.6], "sersic": [1], "g1": [0.2], "g2": [0.0]})
    render_galaxies(galaxy, psf, shape, x=[128.0], y=[128.0], flux=[1e5])
    assert galaxy.sum() == pytest.approx(1e5, rel=0.02)
    y, x = np.mgrid[:SIZE, :SIZE] - 128.0
    assert (galaxy * x**2).sum() > 1.1 * (galaxy * y**2).sum()


def test_psf_changes_over_the_field_and_its_grid_has_it():
    psf = make_psf(variation=0.2, size=4000)
    grid = psf.grid(nx=4000, ny=4000, points=3, size=41)
    assert grid.stamps.sum(axis=(2, 3)) == pytest.approx(np.ones((3, 3)))
    assert grid.stamps[2, 1] == pytest.approx(psf.stamp(x=1999.5, y=3999.0))
    assert psf.parameters(x=1999.5, y=1999.5)[0] == pytest.approx(0.8)
    assert np.abs(grid.stamps[0, 0] - grid.stamps[2, 2]).max() > 0.001


def test_brighter_stars_get_larger_stamps():
    extent = extent_table(0.8)
    sizes = [extent(flux) for flux in (1.0, 1e4, 1e6, 1e12)]
    assert sizes == sorted(sizes) and sizes[0] == 10 and sizes[-1] == 500 and sizes[1] < sizes[2]


def test_sky_has_its_level_and_gradient():
    sky = draw_sky(np.random.default_rng(2), level=800.0, gradient=0.02, nx=200, ny=100)
    assert sky.shape == (100, 200) and sky.mean() == pytest.approx(800.0, rel=1e-3)
    assert 0 < np.ptp(sky) <= 800 * 0.02 * 5.0


def test_charge_that_bleeds_is_not_lost():
    electrons = np.full((60, 5), 10.0)
    electrons[30, 2] = 5000.0
    before = electrons.sum()
    full = bleed(electrons, full_well=1000.0)
    assert electrons.sum() == pytest.approx(before) and electrons.max() <= 1000.0
    assert full[:, 2].sum() == 5 and full.sum() == 5
    # What bleeds up is what bleeds down.
    assert electrons[31:, 2] == pytest.approx(electrons[1:30, 2][::-1])


def test_flaws_are_masked():
    mean = np.full((300, 300), 500.0)
    mean[150, 150] = 5e6
    config = DetectorConfig(cosmic_rays=4000 * 4072 / 300**2 * 5, bad_columns=3.0)
    readout = expose(mean, np.random.default_rng(1), config)
    assert set(readout.masks) == {"SATURATED", "BAD", "COSMIC_RAY"}
    assert all(mask.any() for mask in readout.masks.values())
    assert np.all(readout.image[readout.masks["BAD"]] == 0.0)
    assert readout.masks["SATURATED"][150, 150]
    clean = ~np.logical_or.reduce(list(readout.masks.values()))
    assert readout.image[clean].max() < 500 + 8 * np.sqrt(500 + 81)
    assert np.ptp(readout.variance[~clean]) == 0.0


def test_saturated_stars_appear_in_the_mask(scene):
    star = Table({"x": [100.0], "y": [100.0], "electrons": [3e7]})
    visit = simulate_visit(scene, conditions(), extra_points=star)
    saturated = visit.exposure.mask.get("SATURATED")
    assert saturated[100, 100] and saturated[:, 100].sum() > saturated[100].sum()
