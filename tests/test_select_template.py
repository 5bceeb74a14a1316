"""The tasks that choose templates: the order of each method, the settings, the table of scores."""

import astropy.units as u
import numpy as np
import pytest
from figures_of_visits import make_figures
from lsst.pex.config import FieldValidationError
from small_exposures import make_exposure

from lsst.twinkles.diffim.algorithms.select.choose import predict_errors
from lsst.twinkles.diffim.algorithms.select.depth import limiting_magnitude
from lsst.twinkles.diffim.tasks.exposure_figures import measure_figures
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig
from lsst.twinkles.diffim.tasks.select_registry import selectTemplateRegistry
from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceConfig

SCIENCE = make_figures(1, sigma=2.0, noise=30.0)
# Sharp and noisy, wide and deep, and in between both.
CANDIDATES = [
    make_figures(2, sigma=1.4, noise=90.0),
    make_figures(3, sigma=3.2, noise=15.0),
    make_figures(4, sigma=1.7, noise=25.0),
    make_figures(1, sigma=1.0, noise=1.0),  # the science visit: the best, and never to be taken
]


def choose(method, candidates=CANDIDATES, science=SCIENCE, **settings):
    """Return the chosen visits and the scores."""
    config = selectTemplateRegistry[method].ConfigClass()
    config.update(**settings)
    config.validate()
    result = selectTemplateRegistry[method](config=config).run(science, candidates)
    return [candidates[i].visit for i in result.chosen], result.scores


def test_psf_takes_the_deepest_difference():
    visits, scores = choose("psf")
    assert visits == [4, 3, 2]
    depth = dict(zip(scores["visit"], scores["predictedDepth"], strict=True))
    assert depth[4] > depth[3] > depth[2]
    assert list(depth.values()) == pytest.approx(limiting_magnitude(predict_errors(CANDIDATES, SCIENCE)))


def test_psf_is_not_seeing():
    assert choose("bestSeeing")[0] == [2, 4]  # 3.2 pixels of sigma are 1.51 arcsec
    assert choose("bestSeeing", maxPsfFwhm=None)[0] == [2, 4, 3]


def test_quantile():
    candidates = [make_figures(v, sigma=1.0 + 0.1 * v) for v in range(2, 22)]
    assert choose("bestSeeingQuantile", candidates)[0] == [2, 3, 4, 5, 6, 7, 8]  # round(0.33 * 20)
    assert choose("bestSeeingQuantile", candidates, qMin=0.5, qMax=0.6, nVisitsMin=1)[0] == [12, 13]


def test_explicit():
    assert choose("explicit")[0] == [2, 3, 4]
    visits, scores = choose("explicit", visits=[99, 1, 4, 2])
    assert visits == [4, 2]
    assert scores["reason"][1] == "not among those that the method asks for"


def test_scores_of_all_candidates():
    visits, scores = choose("psf", maxPsfFwhm=1.2, nVisitsMax=1)
    assert visits == [4]
    assert list(scores["visit"]) == [2, 3, 4, 1]
    assert list(scores["rank"]) == [1, -1, 0, -1]
    assert list(scores["chosen"]) == [False, False, True, False]
    assert scores["reason"][3] == "the science visit itself" and "FWHM 1.51" in scores["reason"][1]
    assert scores["skyNoise"].unit == u.nJy and scores["skyNoise"][0] == pytest.approx(90.0)
    assert scores["psfFwhm"].unit == u.arcsec and scores["mjd"].unit == u.day


def test_a_coadd_takes_visits_by_their_own_depth():
    visits, scores = choose("psf", science=None)
    assert visits == [1, 4, 3, 2]
    assert scores["predictedDepth"][2] == pytest.approx(
        limiting_magnitude(25.0 * 2 * np.sqrt(np.pi) * 1.7), abs=1e-3
    )


def test_uncalibrated_exposures_are_compared_in_their_own_unit():
    science = make_figures(1, scale=np.nan)
    visits, scores = choose(
        "psf", [make_figures(2, scale=np.nan), make_figures(3, noise=20, scale=np.nan)], science
    )
    assert visits == [3, 2]
    assert np.isnan(scores["predictedDepth"]).all()


def test_nothing_to_choose_from():
    visits, scores = choose("psf", [])
    assert visits == [] and len(scores) == 0


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("psf", {"minPsfFwhm": 2.0, "maxPsfFwhm": 1.0}, "minPsfFwhm=2 is beyond maxPsfFwhm=1"),
        ("psf", {"minMJD": 60001.0, "maxMJD": 60000.0}, "minMJD=60001 is beyond"),
        ("psf", {"nVisitsMax": 0}, "must be at least 1, or -1"),
        ("bestSeeingQuantile", {"qMin": 0.5, "qMax": 0.4}, "qMin=0.5 must not exceed qMax=0.4"),
    ],
)
def test_settings_that_leave_nothing(method, settings, message):
    with pytest.raises(FieldValidationError, match=message):
        choose(method, **settings)


def test_defaults_of_the_surveys():
    assert ImageDifferenceConfig().selectTemplate.name == "explicit"
    assert TwinklesImageDifferenceConfig().selectTemplate.name == "psf"
    assert set(selectTemplateRegistry) == {"psf", "bestSeeing", "bestSeeingQuantile", "explicit"}


def test_figures_of_an_exposure():
    image = np.random.default_rng(1).normal(0.0, 3.0, (80, 96))
    exposure = make_exposure(image, visit=17, variance=np.full((80, 96), 9.0), sigma=2.0, band="z")
    figures = measure_figures(exposure)
    assert (figures.visit, figures.band) == (17, "z")
    assert figures.variance == pytest.approx(9.0)
    assert figures.fwhm == pytest.approx(2.3548 * 2.0, rel=0.03)
    assert not figures.is_calibrated
    sky = exposure.sky_projection.pixel_to_sky(x=np.array([-0.5, 95.5]), y=np.array([-0.5, -0.5]))
    separation = np.degrees(np.arccos(figures.corners[0] @ figures.corners[1])) * 3600
    assert separation == pytest.approx(sky[0].separation(sky[1]).arcsec, rel=1e-6)
    assert figures.pixel_scale == pytest.approx(separation / 96, rel=1e-3)


def test_exposure_without_psf_or_pixels_is_not_usable():
    exposure = make_exposure(np.full((40, 40), np.nan), visit=3, variance=np.full((40, 40), np.nan))
    assert not measure_figures(exposure).is_usable
