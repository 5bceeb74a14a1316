"""Forced PSF fluxes where a table says: pulls, forms of positions, places off the image."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from small_exposures import make_wcs
from white_differences import ERROR, NJY, make_white

from lsst.twinkles.diffim.tasks.forced_measurement import ForcedMeasurementTask

SHAPE = (300, 420)


def lattice(seed=1):
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(25, 400, 21.0), np.arange(25, 280, 21.0)))
    return x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, x.size)


def test_fluxes_at_blank_positions_over_their_errors_are_normal():
    x, y = lattice()
    images = make_white(SHAPE, np.zeros((0, 3)))
    table = ForcedMeasurementTask().run(*images, Table({"x": x, "y": y})).forcedSources
    pulls = table["psfFlux"] / table["psfFluxErr"]
    n = len(pulls)
    assert n > 200
    assert abs(np.mean(pulls)) < 4 / np.sqrt(n)
    assert np.std(pulls) == pytest.approx(1.0, abs=4 / np.sqrt(2 * n))
    np.testing.assert_allclose(table["psfFluxErr"], NJY * ERROR, rtol=2e-3)


def test_fluxes_of_sources_by_sky_and_by_pixel_positions():
    x, y = lattice(2)
    flux = 20 * ERROR * np.random.default_rng(3).choice([-1, 1], len(x))
    images = make_white(SHAPE, np.column_stack([x, y, flux]), start=(40, -9))
    ra, dec = make_wcs(crpix=(50.0, 50.0), angle=0.3).wcs_pix2world(x, y, 0)
    by_pixel = Table({"x": x - 9, "y": y + 40})
    by_sky = Table({"name": np.arange(len(x)), "ra": np.deg2rad(ra) * u.rad, "dec": dec})
    first, second = (ForcedMeasurementTask().run(*images, t).forcedSources for t in (by_pixel, by_sky))
    np.testing.assert_allclose(second["psfFlux"], first["psfFlux"], rtol=1e-4)
    np.testing.assert_array_equal(second["name"], np.arange(len(x)))
    for name, truth in (("psfFlux", flux), ("scienceFlux", 1000 + flux), ("templateFlux", 1000.0)):
        pulls = (first[name] - NJY * truth) / (NJY * ERROR)
        assert np.abs(np.mean(pulls)) < 0.3
        assert np.std(pulls) < 1.2, name
    assert first["psfFlux"].unit == u.nJy and by_sky.colnames == ["name", "ra", "dec"]


def test_positions_off_the_image_and_under_a_mask_have_no_flux():
    images = make_white(SHAPE, np.array([[100.0, 100.0, 9e3]]))
    bad = np.zeros(SHAPE, bool)
    bad[:60, :60] = True
    for image in images:
        image.mask.set("BAD", bad)
    table = (
        ForcedMeasurementTask()
        .run(*images, Table({"x": [100.0, -30.0, 20.0, np.nan], "y": [100.0, 5.0, 20.0, 3.0]}))
        .forcedSources
    )
    for name in ("psf", "science", "template"):
        np.testing.assert_array_equal(table[f"{name}Flux_flag"], [False, True, True, True])
        np.testing.assert_array_equal(np.isnan(table[f"{name}Flux"]), [False, True, True, True])


def test_an_empty_table_and_one_without_positions():
    images = make_white((60, 80), np.zeros((0, 3)))
    for columns in (("x", "y"), ("ra", "dec")):
        empty = Table({name: np.zeros(0) for name in columns})
        assert len(ForcedMeasurementTask().run(*images, empty).forcedSources) == 0
    with pytest.raises(ValueError, match=r"columns ra and dec .* or x and y .* but has RA, DEC"):
        ForcedMeasurementTask().run(*images, Table({"RA": [1.0], "DEC": [2.0]}))
