"""Fluxes at given positions, depth, pictures and page of a survey."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from lsst.images import Box, DifferenceImage, Image, Mask
from lsst.images.fields import ChebyshevField
from small_exposures import draw_stars, make_exposure

from lsst.twinkles.diffim.adapters.masks import difference_mask_schema
from lsst.twinkles.diffim.report.light_curves import (
    measure_depth,
    measure_points,
    plot_light_curves,
    plot_stamps,
)
from lsst.twinkles.diffim.report.survey_page import plot_survey, write_page

SHAPE, SIGMA, NOISE, NJY = (200, 220), 2.0, 10.0, 3.0
SOURCES = [(60.3, 50.7, 900.0), (150.0, 120.4, -1500.0)]


@pytest.fixture(scope="module")
def difference():
    """A difference of white noise with a source that brightened and one that faded; units of 3 nJy."""
    image = NOISE * np.random.default_rng(2).standard_normal(SHAPE)
    for x, y, flux in SOURCES:
        image += draw_stars(SHAPE, [(x, y)], sigma=SIGMA, flux=flux)
    exposure = make_exposure(image, variance=NOISE**2, sigma=SIGMA)
    mask = Mask(schema=difference_mask_schema(), bbox=exposure.bbox)
    bad = np.zeros(SHAPE, bool)
    bad[100:103, 20:23] = True
    mask.set("NO_DATA", bad)
    return DifferenceImage(
        Image(exposure.image.array, bbox=exposure.bbox, unit=u.electron),
        mask=mask,
        variance=Image(exposure.variance.array, bbox=exposure.bbox, unit=u.electron**2),
        sky_projection=exposure.sky_projection,
        obs_info=exposure.obs_info,
        psf=exposure.psf,
        detector=exposure.detector,
        band=exposure.band,
        photometric_scaling=ChebyshevField(Box.from_shape(SHAPE), np.array([[NJY]]), unit=u.nJy / u.electron),
        kernel=None,
        templates=[],
    )


def sky_of(difference, positions):
    x, y = np.array(positions, float).T
    sky = difference.sky_projection.pixel_to_sky(x=x, y=y).icrs
    return {"ra": np.asarray(sky.ra.deg), "dec": np.asarray(sky.dec.deg)}


def test_fluxes_are_the_true_ones_in_nanojansky(difference):
    flux, error = measure_points(difference, **sky_of(difference, [s[:2] for s in SOURCES]))
    expected = NJY * NOISE * 2 * np.sqrt(np.pi) * SIGMA
    assert error == pytest.approx([expected, expected], rel=0.01)
    assert np.abs(flux - NJY * np.array([s[2] for s in SOURCES])).max() < 3.5 * expected


def test_positions_outside_or_on_bad_pixels_have_no_flux(difference):
    flux, error = measure_points(difference, **sky_of(difference, [(-5, 10), (21, 101), (100, 20)]))
    assert list(np.isfinite(flux)) == list(np.isfinite(error)) == [False, False, True]


def test_depth_of_blank_sky(difference):
    expected = 31.4 - 2.5 * np.log10(5 * NJY * NOISE * 2 * np.sqrt(np.pi) * SIGMA)
    assert measure_depth(difference) == pytest.approx(expected, abs=0.06)


def test_pictures_and_page(tmp_path):
    curve = Table({"mjd": [1.0, 2.0], "flux": [3.0, 4.0], "error": [1.0, 1.0]}, meta={"label": "SN 1"})
    model = {"mjd": np.array([0.0, 3.0]), "flux": np.array([3.0, 4.0])}
    plot_light_curves([curve] * 4, [model] * 4, tmp_path / "a.png", title="Some")
    plot_stamps([("SN 1", [("1", np.zeros((9, 9)))] * 3)], tmp_path / "b.png", title="Some")
    visits = Table(
        {
            "visit": [1, 2, 3],
            "mjd": [1.0, 2.0, 3.0],
            "fwhm": [0.7, 0.8, 0.9],
            "template": [2, 1, 1],
            "predicted": [24.0, 24.1, 24.2],
            "measured": [24.0, 24.1, np.nan],
            "coadd": [np.nan, 24.3, 24.4],
        }
    )
    plot_survey(visits, tmp_path / "c.png")
    page = write_page(
        tmp_path / "index.html",
        title="A & B",
        figures=[("One", "a.png")],
        facts=[("n < m", "3")],
        notes="End.",
    )
    text = page.read_text()
    assert "A &amp; B" in text and "n &lt; m" in text and "src='a.png'" in text
    for name in "abc":
        assert (tmp_path / f"{name}.png").stat().st_size > 2000
