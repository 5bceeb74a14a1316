"""The simulated field: what it holds, and how it changes with time."""

import numpy as np
import pytest

from lsst.twinkles.diffim.simulation.catalogs import draw_magnitudes
from lsst.twinkles.diffim.simulation.conditions import (
    VisitConditions,
    cookbook_conditions,
    sample_conditions,
    sky_electrons,
)
from lsst.twinkles.diffim.simulation.config import DetectorConfig, SceneConfig
from lsst.twinkles.diffim.simulation.lightcurves import (
    DampedRandomWalk,
    periodic_magnitude,
    supernova_shape,
)
from lsst.twinkles.diffim.simulation.scene import TwinklesScene, field_wcs

PIXEL = 0.2  # arcsec


@pytest.fixture(scope="module")
def scene():
    """A field of 512 x 512 pixels with many variable things."""
    return TwinklesScene.make(SceneConfig(nx=512, ny=512, seed=4, overload=20.0, variable_star_fraction=0.3))


def same_tables(first, second):
    return first.colnames == second.colnames and all(
        np.array_equal(first[name], second[name]) for name in first.colnames
    )


def test_same_seed_gives_the_same_field_and_another_seed_another():
    config = SceneConfig(nx=128, ny=128, seed=2)
    first, again = TwinklesScene.make(config), TwinklesScene.make(config)
    other = TwinklesScene.make(SceneConfig(nx=128, ny=128, seed=3))
    for name in ("stars", "galaxies"):
        assert same_tables(getattr(first, name), getattr(again, name))
        assert not same_tables(getattr(first, name), getattr(other, name))
    assert same_tables(first.variables(mjd=59700.0, band="i"), again.variables(mjd=59700.0, band="i"))


def test_more_variable_things_leave_stars_where_they_are():
    few, many = (TwinklesScene.make(SceneConfig(nx=256, ny=256, seed=2, overload=f)) for f in (1.0, 10.0))
    assert same_tables(few.stars, many.stars)
    assert len(many.supernovae.table) > 5 * len(few.supernovae.table)


def test_counts_scale_with_the_area():
    scene = TwinklesScene.make(SceneConfig(nx=1000, ny=1018, seed=1))
    with_margin = (1080 * 1098) / (4000 * 4072)
    stars = len(scene.stars) + len(scene.variable_stars.table)
    assert stars == round(3500 * with_margin)
    assert len(scene.galaxies) - len(scene.quasars.lenses) == round(28000 * with_margin)


def test_galaxy_counts_grow_as_their_slope_says():
    magnitude = draw_magnitudes(np.random.default_rng(1), 100_000, slope=0.33, bright=17.5, faint=27.0)
    assert magnitude.min() >= 17.5 and magnitude.max() <= 27.0
    ratio = np.count_nonzero(magnitude < 26) / np.count_nonzero(magnitude < 25)
    assert ratio == pytest.approx(10**0.33, rel=0.02)


def test_every_lens_has_two_or_four_images_at_the_separation_it_says(scene):
    images, lenses = scene.quasars.images, scene.quasars.lenses
    assert len(images) == sum(lenses["n_images"])
    for lens in lenses:
        mine = images[images["system"] == lens["system"]]
        assert len(mine) == lens["n_images"] and len(mine) in (2, 4)
        places = np.stack([mine["x"], mine["y"]], axis=1)
        largest = np.max(np.linalg.norm(places[:, None] - places[None], axis=-1)) * PIXEL
        assert largest == pytest.approx(lens["separation"])
        assert 0.5 <= lens["separation"] <= 3.9


def test_numbers_of_doubles_and_quads_are_those_of_run_1():
    config = SceneConfig(nx=256, ny=256, seed=5, n_lenses=34, overload=4000 * 4072 / 336**2 * 20)
    lenses = TwinklesScene.make(config).quasars.lenses
    assert len(lenses) == pytest.approx(34 * 20, abs=1)
    quads = np.mean(lenses["n_images"] == 4)
    error = np.sqrt(36 / 198 * 162 / 198 / len(lenses))
    assert quads == pytest.approx(36 / 198, abs=4 * error)
    assert np.median(lenses["separation"]) == pytest.approx(1.3, rel=0.15)


def test_images_of_a_quasar_repeat_one_light_curve_after_their_delays(scene):
    images = scene.quasars.images
    system = np.flatnonzero(np.asarray(images["system"]) == images["system"][0])
    first, second = system[:2]
    lag = images["delay"][second] - images["delay"][first]
    assert lag > 0
    before = scene.quasars.magnitude(mjd=60000.0, band="r")[first] - images["mag_r"][first]
    after = scene.quasars.magnitude(mjd=60000.0 + lag, band="r")[second] - images["mag_r"][second]
    assert after == pytest.approx(before, abs=1e-9)


def test_supernovae_lie_on_their_hosts(scene):
    table, galaxies = scene.supernovae.table, scene.galaxies
    host = np.asarray(table["host"])
    radius = PIXEL * np.hypot(table["x"] - galaxies["x"][host], table["y"] - galaxies["y"][host])
    # Half the light of an exponential disc, and so half the supernovae, is within the half-light radius.
    inside = np.mean(radius < galaxies["half_light_radius"][host])
    assert inside == pytest.approx(0.5, abs=0.05)


def test_a_supernova_is_brightest_at_its_peak_and_gone_in_the_end(scene):
    table = scene.supernovae.table[:1]
    peak = float(table["peak_mjd"][0])
    at_peak, before, later, gone = (
        scene.supernovae.magnitude(mjd=peak + days, band="r")[0] for days in (0.0, -15.0, 30.0, 2000.0)
    )
    redshift = float(table["redshift"][0])
    assert at_peak == pytest.approx(float(table["peak_magnitude"][0]) + 1.0 * redshift)
    assert at_peak < before and at_peak < later and np.isinf(gone)


def test_supernova_shape_has_its_maximum_of_one_at_zero():
    days = np.linspace(-40, 100, 14001)
    shape = supernova_shape(days, rise=5.0, decline=30.0)
    assert days[np.argmax(shape)] == pytest.approx(0.0, abs=0.02)
    assert shape.max() == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="rise < decline"):
        supernova_shape(0.0, rise=30.0, decline=5.0)


def test_damped_random_walk_has_the_variance_and_correlation_of_its_process():
    rng = np.random.default_rng(3)
    walks = [DampedRandomWalk.draw_random(rng, start=0, stop=400, tau=50.0, sigma=0.3) for _ in range(800)]
    now, later = (np.array([walk(t) for walk in walks]) for t in (200.0, 250.0))
    assert np.std(now) == pytest.approx(0.3, rel=0.1)
    assert np.corrcoef(now, later)[0, 1] == pytest.approx(np.exp(-1), abs=0.1)


def test_variable_stars_stay_within_their_amplitude(scene):
    stars = scene.variable_stars
    times = np.linspace(59600, 60000, 60)
    change = np.array([stars.magnitude(mjd=t, band="g") - stars.table["mag_g"] for t in times])
    amplitude = np.asarray(stars.table["amplitude"])
    assert np.all(np.abs(change) <= amplitude + 1e-9)
    assert np.median(np.ptp(change, axis=0) / (2 * amplitude)) > 0.9
    assert periodic_magnitude(10.0, period=10.0, phase=np.pi / 2, amplitude=0.2) == pytest.approx(0.2)


def test_variables_say_what_they_are(scene):
    table = scene.variables(mjd=59800.0, band="i")
    assert len(set(table["object_id"])) == len(table)
    assert set(table["kind"]) == {"variable_star", "supernova", "quasar"}
    quasars = table[table["kind"] == "quasar"]
    assert len(quasars) == len(scene.quasars.images) and np.all(quasars["system"] >= 0)
    assert np.all(table["host"][table["kind"] == "supernova"] >= 0)


@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_field_wcs_puts_the_centre_in_the_middle_at_the_pixel_scale(rotation):
    config = SceneConfig(nx=400, ny=300)
    wcs = field_wcs(config, offset=(3.0, -2.0), rotation=rotation)
    x, y = wcs.all_world2pix(config.ra, config.dec, 0)
    assert (x, y) == pytest.approx((199.5 + 3.0, 149.5 - 2.0))
    north = np.array(wcs.all_world2pix(config.ra, config.dec + 1 / 3600, 0)) - (x, y)
    assert np.hypot(*north) == pytest.approx(1 / PIXEL, rel=1e-4)
    turned = np.degrees(np.arctan2(-north[0], north[1]))
    assert turned == pytest.approx(rotation, abs=0.01)


def test_the_cookbook_pair():
    science, template = cookbook_conditions()
    assert (science.visit, template.visit) == (230, 250)
    assert science.band == template.band == "i" and template.fwhm_eff < science.fwhm_eff
    science, template = cookbook_conditions(run1_filters=True)
    assert (science.band, template.band) == ("i", "z") and template.fwhm_eff == 1.11


def test_sampled_visits_are_seeded_and_follow_run_1():
    visits = sample_conditions(400, seed=1, bands="r")
    assert visits == sample_conditions(400, seed=1, bands="r") != sample_conditions(400, seed=2, bands="r")
    assert np.all(np.diff([v.mjd for v in visits]) >= 0)
    assert [v.visit for v in visits] == list(range(1000, 1400))
    # Quantiles of the delivered image quality of the r visits.
    assert np.percentile([v.fwhm_eff for v in visits], [25, 50, 75]) == pytest.approx(
        [0.78, 0.89, 1.0], abs=0.04
    )


def test_zero_point_and_sky():
    short = VisitConditions(visit=1, band="r", mjd=59600.0, fwhm_eff=0.8, sky_magnitude=20.9)
    long = VisitConditions(
        visit=1, band="r", mjd=59600.0, fwhm_eff=0.8, sky_magnitude=20.9, exposure_time=60.0, transparency=0.5
    )
    assert long.zero_point == pytest.approx(short.zero_point)
    assert sky_electrons(short) == pytest.approx(10 ** (0.4 * (short.zero_point - 20.9)) * PIXEL**2)
    # One electron is nanojansky_per_electron nJy by definition of the AB system.
    assert 31.4 - 2.5 * np.log10(short.nanojansky_per_electron) == pytest.approx(short.zero_point)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SceneConfig(nx=10), "64 x 64"),
        (lambda: SceneConfig(n_stars=-1), "n_stars"),
        (lambda: SceneConfig(quad_fraction=2.0), "quad_fraction"),
        (lambda: SceneConfig(dec=100.0), "dec"),
        (lambda: DetectorConfig(read_noise=-1.0), "read_noise"),
        (lambda: DetectorConfig(full_well=0.0), "full_well"),
        (lambda: VisitConditions(1, "k", 59600.0, 0.8, 21.0), "band"),
        (lambda: VisitConditions(1, "r", 59600.0, 9.0, 21.0), "fwhm_eff"),
        (lambda: VisitConditions(1, "r", 59600.0, 0.8, 21.0, exposure_time=0.0), "exposure_time"),
        (lambda: sample_conditions(0, seed=1), "count"),
        (lambda: sample_conditions(1, seed=1, bands="rk"), "bands"),
    ],
)
def test_a_wrong_value_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()
