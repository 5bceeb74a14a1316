"""Errors that mean it: pulls of fluxes and positions have mean 0 and width 1, to 5 percent."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from point_scenes import ERROR, FIT, NOISE, PSF, lattice, scene, weights, with_noise

from lsst.twinkles.diffim.algorithms.measure.psf_fit import fit_point_sources, measure_forced_fluxes

BENCH = Path(__file__).resolve().parent.parent / "bench"
N, STEP = 50, 34
SHAPE = (N * STEP, N * STEP)


def pulls_at(snr):
    """Pulls of 2500 sources of one signal-to-noise ratio, fitted from the truth, so that none is selected."""
    x, y = lattice(N, STEP, seed=snr)
    flux = snr * ERROR
    image = with_noise(scene(SHAPE, x, y, flux), seed=100 + snr)
    raw = fit_point_sources(image, weights(SHAPE), PSF, x=x, y=y, **FIT | {"rounds": 1})
    fits = raw.corrected()
    forced = measure_forced_fluxes(image, weights(SHAPE), PSF, x=x, y=y, half=10)
    assert np.mean(fits.failed) < 1e-3
    return {
        "raw": (raw.flux - flux) / raw.flux_error,
        "forced": (forced.flux - flux) / forced.error,
        "flux": (fits.flux - flux) / fits.flux_error,
        "x": (fits.x - x) / fits.x_error,
        "y": (fits.y - y) / fits.y_error,
    }


@pytest.mark.parametrize("snr", [5, pytest.param(10, marks=pytest.mark.slow), 20,
                                 pytest.param(100, marks=pytest.mark.slow)])  # fmt: skip
def test_pulls_on_white_noise(snr):
    pulls = pulls_at(snr)
    # 2500 deviates: mean to 0.02, width to 0.014.
    for name in ("forced", "flux", "x", "y"):
        assert abs(np.nanmean(pulls[name])) < 0.06, name
        assert np.nanstd(pulls[name]) == pytest.approx(1.0, abs=0.05), name
    # What was taken away: the gain of a position that is free.
    assert np.mean(pulls["raw"]) == pytest.approx(1.0 / snr, abs=0.06)


def test_fluxes_forced_at_blank_places():
    rng = np.random.default_rng(1)
    image = NOISE * rng.normal(size=(600, 600))
    x, y = rng.uniform(15, 585, (2, 900))
    forced = measure_forced_fluxes(image, weights(image.shape), PSF, x=x, y=y, half=10)
    pulls = forced.flux / forced.error
    # Places overlap: as many independent values as the area has of the filter's, about 600.
    assert abs(pulls.mean()) < 0.16 and pulls.std() == pytest.approx(1.0, abs=0.12)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kernel"), [("std", "zogy"), ("rev", "zogy"), ("std", "AL")])
def test_pulls_on_differences_of_simulated_pairs(case, kernel, monkeypatch):
    """Blank sky and galaxies, forced and free, on what the package itself subtracted."""
    script = import_bench("pulls", monkeypatch)
    pulls = script.measure_pair(case, 4, 1024, kernel)
    bright, on, star = pulls["snr"] > 4, pulls["on_source"], pulls["near_star"]
    for where in (bright & ~on & ~star, bright & on, pulls["snr"] == 0):
        for name in ("forced flux", "free flux", "x", "y"):
            values = pulls[name][where]
            values = values[np.isfinite(values)]
            if len(values) == 0:
                continue
            n = len(values)
            assert n > 60, name
            assert abs(values.mean()) < 0.05 + 4 / np.sqrt(n), (name, n)
            assert values.std() == pytest.approx(1.0, abs=0.05 + 4 / np.sqrt(2 * n)), (name, n)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kernel"), [("std", "zogy"), ("rev", "zogy"), ("std", "AL")])
def test_pulls_of_dipoles_on_differences_of_simulated_pairs(case, kernel, monkeypatch):
    """Stars that moved, on dark sky and on galaxies that did not."""
    script = import_bench("dipole_pulls", monkeypatch)
    pulls = script.measure_dipoles(case, 4, 1024, kernel)
    bright, on = (pulls["snr"] > 8) & (pulls["snr"] < 100), np.asarray(pulls["on_source"], bool)
    for there, names in ((~on, ("moment", "across", "separation")), (on, ("moment", "across"))):
        for name in names:
            values = pulls[name][bright & there]
            n = np.isfinite(values).sum()
            assert n > 25, name
            assert abs(np.nanmean(values)) < 0.05 + 4 / np.sqrt(n), (name, n)
            assert np.nanstd(values) == pytest.approx(1.0, abs=0.05 + 4 / np.sqrt(2 * n)), (name, n)


def import_bench(name, monkeypatch):
    """Return a script of the directory bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module(name)
